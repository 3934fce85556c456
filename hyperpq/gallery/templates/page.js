"use strict";
// The size of the tiles; the page is whole without it.
const control = document.querySelector(".sizes");
const range = control.querySelector("input");
range.addEventListener("input", () => {
  document.documentElement.style.setProperty("--tile", `${range.value}px`);
});
control.hidden = false;
