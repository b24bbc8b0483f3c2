// Light or dark, and the keyboard. Every page works without this script.
(() => {
  "use strict";
  const root = document.documentElement;

  // the server reads the choice from a cookie, so that no page begins in the other colours
  const theme = document.getElementById("theme");
  const THEMES = ["", "light", "dark"];
  const showTheme = () => {
    theme.querySelector(".word").textContent = theme.dataset.theme || "auto";
    if (theme.dataset.theme) root.dataset.theme = theme.dataset.theme; else delete root.dataset.theme;
  };
  theme?.addEventListener("click", () => {
    const chosen = theme.dataset.theme = THEMES[(THEMES.indexOf(theme.dataset.theme) + 1) % THEMES.length];
    document.cookie = `flux-theme=${chosen}; Path=${theme.dataset.path}; Max-Age=${chosen ? 31536000 : 0}; SameSite=Strict`;
    showTheme();
  });

  const keys = document.getElementById("keys");
  const on = document.getElementById("keys-on");
  const button = document.getElementById("show-keys");
  const SEQUENCE = 1500; // ms between the two keys of one
  let first = "";
  let pressed = 0;
  on.checked = localStorage.getItem("keys") !== "off";
  on.addEventListener("change", () => localStorage.setItem("keys", on.checked ? "on" : "off"));
  button.addEventListener("click", () => keys.showModal());

  const writes = (element) => element.closest("input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable]");
  const go = (name) => {
    const link = document.querySelector(`a[data-key="${CSS.escape(name)}"]`);
    link?.click();
    return Boolean(link);
  };
  const acts = {
    "?": () => keys.showModal(),
    "/": () => document.querySelector("main form.filter input")?.focus(),
    p: () => document.getElementById("live")?.click(),
  };
  document.addEventListener("keydown", (event) => {
    if (!on.checked || keys.open || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (writes(event.target)) return;
    const both = Date.now() - pressed < SEQUENCE ? first + event.key : event.key;
    first = event.key === "g" ? "g" : "";
    pressed = Date.now();
    if (go(both)) { event.preventDefault(); return; }
    if (acts[event.key]) { event.preventDefault(); acts[event.key](); }
  });

  if (theme) { theme.hidden = false; showTheme(); }
  button.hidden = false;
})();
