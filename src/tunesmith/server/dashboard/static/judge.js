// Keys for the buttons of the judging page, the same as those of `tunesmith compare`; without them all work by mouse.
"use strict";

(() => {
  const form = document.querySelector("form.judge");
  if (!form) return;
  const press = (choice) => form.querySelector(`button[value="${choice}"]`).click();
  const keys = {
    1: () => press("left"),
    ArrowLeft: () => press("left"),
    2: () => press("right"),
    ArrowRight: () => press("right"),
    3: () => press("tie"),
    4: () => press("bad"),
    r: () => form.querySelector("details").toggleAttribute("open"),
  };
  let sent = false;

  form.addEventListener("submit", (event) => {
    if (sent) event.preventDefault(); // a key held down must not judge the next pair too
    sent = true;
  });
  document.addEventListener("keydown", (event) => {
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (act && !event.repeat && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      act();
    }
  });
  // A page taken back from the browser's history may be sent again.
  window.addEventListener("pageshow", () => { sent = false; });
})();
