// Light or dark, before the first thing is drawn: as the system has it, until the reader chooses.
"use strict";

const system = matchMedia("(prefers-color-scheme: dark)");

function kept() {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null; // a browser that keeps nothing
  }
}

function dress() {
  document.documentElement.dataset.theme = kept() ?? (system.matches ? "dark" : "light");
}

dress();
system.addEventListener("change", dress);

document.addEventListener("DOMContentLoaded", () => {
  document.getElementById("theme").addEventListener("click", () => {
    const other = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = other;
    try {
      localStorage.setItem("theme", other);
    } catch {
      // it holds until the page is closed
    }
  });
});
