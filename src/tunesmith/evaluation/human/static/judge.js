// Keys for the buttons and links of a pair that is judged; without this script every one of them still works by mouse.
"use strict";

(() => {
  const form = document.getElementById("choice");
  if (!form) return;
  const started = performance.now();
  const note = form.elements.note;
  const press = (choice) => form.querySelector(`button[value="${choice}"]`).click();
  const keys = {
    1: () => press("left"),
    ArrowLeft: () => press("left"),
    2: () => press("right"),
    ArrowRight: () => press("right"),
    3: () => press("tie"),
    4: () => press("bad"),
    n: () => note.focus(),
    r: () => document.getElementById("reference").toggleAttribute("open"),
    u: () => document.getElementById("back")?.click(),
  };
  let sent = false;

  form.addEventListener("submit", (event) => {
    if (sent) {
      event.preventDefault(); // a key held down must not judge the next pair too
      return;
    }
    sent = true;
    form.elements.seconds.value = ((performance.now() - started) / 1000).toFixed(3);
  });

  document.addEventListener("keydown", (event) => {
    if (event.target === note) {
      if (event.key === "Escape") note.blur();
      return;
    }
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (act && !event.repeat && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      act();
    }
  });

  // A page taken back from the browser's history may be sent again.
  window.addEventListener("pageshow", () => {
    sent = false;
  });
})();
