// On every page: a menu closes when one clicks elsewhere, or presses Escape.
"use strict";

document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open], details.pop[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of document.querySelectorAll("details.menu[open], details.pop[open]")) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});
