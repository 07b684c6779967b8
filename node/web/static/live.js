// Keeps the page current: one event stream, text of [data-live] elements, classes of the map.
"use strict";
(() => {
  const link = document.querySelector("[data-link]");
  const states = ["idle", "charging", "discharging", "solar", "offline", "alarm"];
  const put = (key, value) => {
    document.querySelectorAll(`[data-live="${CSS.escape(key)}"]`).forEach(e => { if (e.textContent !== value) e.textContent = value; });
    document.querySelectorAll(`[data-state="${CSS.escape(key)}"]`).forEach(e => {
      states.forEach(s => e.classList.toggle(s, s === value));
    });
    document.querySelectorAll(`[data-level="${CSS.escape(key)}"]`).forEach(e => {
      for (let i = 0; i <= 4; i++) e.classList.toggle("level" + i, String(i) === value);
    });
    if (key === "events") news(value);
  };
  const news = text => {
    const list = document.querySelector("[data-events]");
    if (!list || !text) return;
    const [kind, when, what] = text.split("\t");
    const first = list.querySelector("li");
    if (first && first.dataset.text === text) return;
    const li = document.createElement("li"), t = document.createElement("time");
    li.className = kind; li.dataset.text = text; t.textContent = when;
    li.append(t, " " + what);
    list.prepend(li);
    while (list.children.length > 20) list.lastElementChild.remove();
  };
  const show = on => { if (link) { link.hidden = false; link.classList.toggle("off", !on); link.textContent = on ? "live" : "reconnecting"; } };
  let source;
  const open = () => {
    source = new EventSource("/live");
    source.onopen = () => { show(true); document.body.dataset.live = "on"; };
    source.onerror = () => show(false);
    source.onmessage = e => { for (const [k, v] of Object.entries(JSON.parse(e.data))) put(k, v); };
  };
  open();
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", e => { if (e.persisted) open(); });
  document.querySelectorAll(".choose select").forEach(s => s.addEventListener("change", () => s.form.submit()));
})();
