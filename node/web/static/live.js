// Keeps the page current: one event stream; text of [data-live], classes of the map, new events.
"use strict";
(() => {
  const link = document.querySelector("[data-link]"), list = document.querySelector("[data-events]");
  const states = ["idle", "charging", "discharging", "parked", "solar", "offline", "alarm", "ok", "late", "refused"];
  const index = name => {
    const all = new Map();
    document.querySelectorAll(`[data-${name}]`).forEach(e => {
      const key = e.dataset[name];
      all.has(key) ? all.get(key).push(e) : all.set(key, [e]);
    });
    return key => all.get(key) || [];
  };
  const texts = index("live"), states_ = index("state"), levels = index("level");
  const put = (key, value) => {
    if (key === "site" && value !== document.body.dataset.site) location.reload(); // the machine began or ceased to lead
    texts(key).forEach(e => { if (e.textContent !== value) e.textContent = value; });
    states_(key).forEach(e => states.forEach(s => e.classList.toggle(s, s === value)));
    levels(key).forEach(e => {
      const n = Math.min(4, Math.abs(Number(value)));
      for (let i = 0; i <= 4; i++) e.classList.toggle("level" + i, i === n);
      e.classList.toggle("back", Number(value) < 0);
    });
    if (key === "events" && list) value.split("\n").reverse().forEach(news);
  };
  // news puts one event on top, unless the list has it.
  const news = line => {
    if (!line || [...list.children].some(li => li.dataset.line === line)) return;
    const [kind, when, what, where] = line.split("\t");
    const li = document.createElement("li"), time = document.createElement("time"), text = document.createElement(where ? "a" : "span");
    li.className = kind + " fresh"; li.dataset.line = line; time.textContent = when; text.textContent = what;
    if (where) text.href = where;
    li.append(time, " ", text);
    list.prepend(li);
    document.querySelector("[data-empty]")?.remove();
    while (list.children.length > 12) list.lastElementChild.remove();
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
