// Keeps a page live: when the server sends news, the page is fetched again, and its changed parts are replaced.
// Without this script every page works, and shows the state of its last loading.
(() => {
  "use strict";
  const body = document.body;
  const button = document.getElementById("live");
  const LEAST = 1000; // ms between two fetches
  const RETRY = 5000; // ms until a refused stream is opened again
  let source = null;
  let paused = sessionStorage.getItem("paused") === "1";
  let last = 0;
  let timer = null;
  let fetching = false;
  let stale = false; // the server does not answer or requires a login: the page says that it is out of date

  const same = (part) => {
    const active = document.activeElement;
    if (!active || active === body || !part.contains(active)) return () => {};
    const at = active.id ? `#${CSS.escape(active.id)}` : active.getAttribute("href") && `[href="${CSS.escape(active.getAttribute("href"))}"]`;
    const label = active.getAttribute("aria-label");
    const selector = at || (label && `[aria-label="${CSS.escape(label)}"]`);
    return (found) => selector && found.querySelector(selector)?.focus({ preventScroll: true });
  };

  const replace = (old, fresh) => {
    if (old.isEqualNode(fresh)) return;
    const refocus = same(old);
    const scrolled = [...old.querySelectorAll(".scroll")].map((each) => each.scrollLeft);
    const made = document.importNode(fresh, true);
    old.replaceWith(made);
    made.querySelectorAll(".scroll").forEach((each, i) => { if (scrolled[i]) each.scrollLeft = scrolled[i]; });
    refocus(made);
  };

  const refresh = async () => {
    if (fetching) return;
    fetching = true;
    last = Date.now();
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" }, redirect: "error" });
      if (!answer.ok) throw new Error(answer.status);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (document.querySelectorAll("[data-part]").length !== fresh.querySelectorAll("[data-part]").length) {
        location.reload();
        return;
      }
      for (const old of document.querySelectorAll("[data-part]")) {
        const found = fresh.getElementById(old.id);
        if (found && !selecting(old)) replace(old, found);
      }
      body.dataset.live = fresh.body.dataset.live;
      if (!body.dataset.live) close();
      markStale(false);
    } catch {
      markStale(true); // the stream reconnects by itself and brings the next news
    } finally {
      fetching = false;
      body.dataset.seen = String(Number(body.dataset.seen || 0) + 1);
    }
  };

  // keep a text selection
  const selecting = (part) => {
    const selection = getSelection();
    return selection && !selection.isCollapsed && part.contains(selection.anchorNode);
  };

  const soon = () => {
    if (timer !== null) return;
    timer = setTimeout(() => { timer = null; refresh(); }, Math.max(0, last + LEAST - Date.now()));
  };

  const close = () => { source?.close(); source = null; };
  const open = () => {
    if (source || paused || document.hidden || !body.dataset.live) return;
    source = new EventSource(body.dataset.events);
    source.addEventListener("news", soon);
    source.addEventListener("open", () => { if (stale) soon(); });
    source.addEventListener("error", () => {
      markStale(true);
      // a browser gives up when a proxy answers instead of the server
      if (source?.readyState === EventSource.CLOSED) { close(); setTimeout(open, RETRY); }
    });
  };

  const markStale = (now) => { if (stale !== now) { stale = now; show(); } };

  const show = () => {
    if (!button) return;
    button.hidden = !body.dataset.live;
    button.setAttribute("aria-pressed", String(!paused));
    button.dataset.stale = String(stale && !paused);
    button.querySelector(".word").textContent = paused ? "Paused" : stale ? "Not live: no answer" : "Live";
  };

  button?.addEventListener("click", () => {
    paused = !paused;
    sessionStorage.setItem("paused", paused ? "1" : "0");
    show();
    if (paused) close(); else { refresh(); open(); }
  });
  // a hidden page needs no connection
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) close(); else if (body.dataset.live && !paused) { refresh(); open(); }
  });
  addEventListener("pagehide", close);

  // the tooltip of a chart
  const EDGE = 2; // margin above and below, in the chart's units, as the server draws it
  const number = (value) => value.toLocaleString("en", { maximumFractionDigits: value < 100 ? 1 : 0 });
  const span = (seconds) => {
    for (const [size, unit] of [[86400, "days"], [3600, "h"], [60, "min"]]) if (seconds >= size) return `${(seconds / size).toFixed(1)} ${unit}`;
    return `${Math.round(seconds)} s`;
  };
  const hide = () => document.querySelectorAll(".tip").forEach((tip) => tip.remove());
  const tooltip = (chart, part) => {
    const { width, height } = chart.viewBox.baseVal;
    const nearest = new Map();
    for (const path of chart.querySelectorAll("path[data-name]")) {
      for (const pair of path.getAttribute("d").slice(1).split("L")) {
        const [x, y] = pair.split(" ").map(Number);
        const off = Math.abs(x / width - part);
        if (off < 0.03 && off < (nearest.get(path.dataset.name)?.off ?? 1)) {
          nearest.set(path.dataset.name, { off, value: (1 - (y - EDGE) / (height - 2 * EDGE)) * chart.dataset.top });
        }
      }
    }
    const parts = [...nearest].map(([name, { value }]) => `${number(Math.max(0, value))} ${name}`);
    return parts.length ? `${parts.join(", ")}, ${span(chart.dataset.seconds * (1 - part))} ago` : "";
  };
  document.addEventListener("pointermove", (event) => {
    hide();
    const field = event.target.closest?.(".field");
    const chart = field?.querySelector("svg.chart");
    if (!chart) return;
    const box = chart.getBoundingClientRect();
    const part = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    const text = tooltip(chart, part);
    if (!text) return;
    const tip = document.createElement("span");
    tip.className = "tip";
    tip.setAttribute("aria-hidden", "true"); // the chart has a label
    tip.textContent = text;
    field.append(tip);
    const left = part * box.width;
    tip.style.left = `${Math.max(0, Math.min(left + 8, box.width - tip.offsetWidth))}px`;
    const rule = document.createElement("span");
    rule.className = "tip at";
    rule.style.left = `${left}px`;
    field.append(rule);
  });
  show();
  open();
})();
