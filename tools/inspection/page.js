"use strict";
// Text comes into the page escaped; nothing here makes markup of text.
const cards = [...document.querySelectorAll("article")];
const at = (id) => document.getElementById(id);
const choosers = ["model", "judge", "source"].map(at).filter(Boolean);
const checks = ["rows", "direct", "invalid", "problems"].map(at);
const words = new Map(); // the text of each card, read when first searched

function text(card) {
  if (!words.has(card)) words.set(card, card.textContent.toLowerCase());
  return words.get(card);
}

function fits(card, search, gap) {
  const flags = card.dataset.flags.split(" ");
  return (
    choosers.every((each) => each.value === "" || card.dataset[each.id].split(" ").includes(each.value)) &&
    checks.every((each) => !each.checked || flags.includes(each.id)) &&
    (Number.isNaN(gap) || (card.dataset.gap !== "" && Number(card.dataset.gap) >= gap)) &&
    search.every((word) => text(card).includes(word))
  );
}

function filter() {
  const search = at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const gap = at("gap").valueAsNumber;
  for (const card of cards) card.hidden = !fits(card, search, gap);
  const shown = cards.filter((card) => !card.hidden).length;
  at("count").textContent = shown === cards.length ? `${shown} samples` : `${shown} of ${cards.length}`;
  at("none").hidden = shown > 0;
}

function clear() {
  for (const each of [...choosers, at("search"), at("gap")]) each.value = "";
  for (const each of checks) each.checked = false;
  filter();
}

// The card that has the focus, or else the first one that the window shows.
function current(shown) {
  const focused = shown.indexOf(document.activeElement?.closest("article"));
  if (focused >= 0) return focused;
  const next = shown.findIndex((card) => card.getBoundingClientRect().top > 0);
  return next < 0 ? shown.length - 1 : next - 1;
}

function go(step) {
  const shown = cards.filter((card) => !card.hidden);
  if (!shown.length) return;
  const card = shown[Math.min(Math.max(current(shown) + step, 0), shown.length - 1)];
  card.focus({ preventScroll: true });
  card.scrollIntoView({ block: "start" });
}

function details() {
  const found = document.activeElement?.closest("article")?.querySelectorAll("details") ?? [];
  const open = [...found].some((each) => !each.open);
  for (const each of found) each.open = open;
}

const keys = { j: () => go(1), k: () => go(-1), "/": () => at("search").focus(), d: details };

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, select, textarea") && event.target.type !== "checkbox";
  if (event.key === "Escape" && typing) {
    if (event.target.id === "search" && event.target.value) {
      event.target.value = "";
      filter();
    } else event.target.blur();
    event.preventDefault();
  }
  if (typing || event.ctrlKey || event.metaKey || event.altKey || at("large").open || !keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});

document.addEventListener("click", (event) => {
  const small = event.target.closest(".picture")?.querySelector("img");
  if (!small) return;
  const large = at("large").querySelector("img");
  large.src = small.src;
  large.alt = small.alt;
  large.className = small.className;
  at("large").showModal();
});
at("large").addEventListener("click", (event) => event.target.closest("form") || at("large").close());

const themes = ["auto", "light", "dark"];
at("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const next = themes[(themes.indexOf(root.dataset.theme ?? "auto") + 1) % themes.length];
  root.dataset.theme = next;
  at("theme").textContent = `Theme: ${next}`;
});

at("more").addEventListener("click", () => {
  at("more").setAttribute("aria-expanded", at("toolbar").classList.toggle("open"));
});
for (const id of ["clear", "clear-too"]) at(id).addEventListener("click", clear);
at("toolbar").addEventListener("input", filter);
// Cards and pictures keep clear of the toolbar, however many lines it has.
new ResizeObserver(([entry]) => {
  document.documentElement.style.setProperty("--covered", `${entry.target.offsetHeight + 16}px`);
}).observe(at("toolbar"));
at("toolbar").hidden = at("theme").hidden = false;
filter(); // a browser may have kept what was typed before a reload
