// What every page does: questions before what cannot be undone, buttons that say they are at work, errors of htmx.
"use strict";

document.addEventListener("submit", (event) => {
  const form = event.target;
  const question = form.dataset.confirm;
  if (question && !window.confirm(question)) {
    event.preventDefault();
    return;
  }
  const button = form.dataset.busy && form.querySelector("button[type=submit]");
  if (button) {
    button.disabled = true;
    button.dataset.said = button.textContent;
    button.textContent = form.dataset.busy;
  }
});

// A page that is shown again from the browser's memory must be usable again.
window.addEventListener("pageshow", () => {
  for (const button of document.querySelectorAll("button[data-said]")) {
    button.disabled = false;
    button.textContent = button.dataset.said;
  }
});

for (const name of ["htmx:responseError", "htmx:sendError"]) {
  document.addEventListener(name, (event) => {
    const place = event.detail.target;
    if (!place || place.id === "jobs") return; // the list asks again by itself
    const message = document.createElement("p");
    message.className = "notice";
    message.textContent = "The server did not answer as it should; see its log, and reload the page.";
    place.replaceChildren(message);
  });
}
