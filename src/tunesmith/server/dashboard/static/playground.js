// Two conversations beside each other: each side keeps its own turns, one message goes to both.
"use strict";

(() => {
  const page = document.getElementById("playground");
  const form = document.getElementById("ask");
  const message = document.getElementById("message");
  const sides = [...page.querySelectorAll("[data-side]")].map((place) => ({
    log: place.querySelector(".log"),
    model: place.querySelector("select"),
    turns: [],
  }));
  const field = (id) => document.getElementById(id);
  let stopping = null;

  message.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = message.value.trim();
    if (!text || stopping) return;
    message.value = "";
    stopping = new AbortController();
    atWork(true);
    await Promise.all(sides.map((side) => ask(side, text, stopping.signal)));
    stopping = null;
    atWork(false);
    message.focus();
  });
  field("stop").addEventListener("click", () => stopping?.abort());
  field("clear").addEventListener("click", () => {
    stopping?.abort();
    for (const side of sides) clear(side);
    message.focus();
  });
  for (const side of sides) side.model.addEventListener("change", () => clear(side));

  async function ask(side, text, signal) {
    if (side.turns.length === 0) side.log.replaceChildren();
    const turns = side.turns;
    turns.push({ role: "user", content: text });
    bubble(side, "user", text);
    const place = bubble(side, "assistant", "");
    place.classList.add("waiting");
    side.log.setAttribute("aria-busy", "true");
    try {
      const said = await stream(side, place, signal);
      turns.push({ role: "assistant", content: said });
    } catch (error) {
      turns.pop();
      const stopped = error.name === "AbortError";
      place.classList.toggle("failed", !stopped);
      note(place, stopped ? "stopped" : error.message);
    }
    place.classList.remove("waiting");
    side.log.removeAttribute("aria-busy");
    side.log.scrollTop = side.log.scrollHeight;
  }

  async function stream(side, place, signal) {
    const system = field("system").value.trim();
    const body = new FormData();
    body.set("token", page.dataset.token);
    body.set("model", side.model.value);
    body.set("messages", JSON.stringify([...(system ? [{ role: "system", content: system }] : []), ...side.turns]));
    body.set("temperature", field("temperature").value);
    body.set("max_tokens", field("max-tokens").value);
    const response = await fetch("/dashboard/playground/reply", { method: "POST", body, signal });
    if (!response.ok) {
      throw new Error(response.status === 401 ? "Your session is over; reload the page" : `The server answered ${response.status}`);
    }
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let said = "";
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return said;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) said += take(JSON.parse(line), place);
      side.log.scrollTop = side.log.scrollHeight;
    }
  }

  function take(news, place) {
    if (news.error) throw new Error(news.error);
    if (news.text === undefined) {
      if (!place.firstChild.data) note(place, "said nothing");
      note(place, `${news.tokens} tokens in ${news.seconds} s${news.finish === "length" ? ", cut off at the longest reply" : ""}`);
      return "";
    }
    place.firstChild.data += news.text;
    return news.text;
  }

  function bubble(side, role, text) {
    const place = document.createElement("p");
    place.className = `turn ${role}`;
    place.append(document.createTextNode(text));
    side.log.append(place);
    side.log.scrollTop = side.log.scrollHeight;
    return place;
  }

  function note(place, text) {
    const small = document.createElement("small");
    small.textContent = text;
    place.append(small);
  }

  function clear(side) {
    side.turns = [];
    side.log.replaceChildren();
  }

  function atWork(working) {
    field("send").disabled = working;
    field("stop").hidden = !working;
  }
})();
