/* The page's theme, by a button, and tables that are wider than the page, for the keyboard. */
(function () {
  "use strict";
  var root = document.documentElement, button = document.getElementById("theme");
  var dark = window.matchMedia("(prefers-color-scheme: dark)");
  var KEY = "tracestill-theme";

  function isDark() { return root.dataset.theme ? root.dataset.theme === "dark" : dark.matches; }

  function say() { button.textContent = isDark() ? "Light theme" : "Dark theme"; }

  try { // a browser may keep nothing for a file
    var kept = window.localStorage.getItem(KEY);
    if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  } catch (error) { /* the system's theme, then */ }
  button.hidden = false;
  button.addEventListener("click", function () {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { window.localStorage.setItem(KEY, root.dataset.theme); } catch (error) { /* for this page alone */ }
    say();
  });
  dark.addEventListener("change", say);
  say();

  var sizes = new ResizeObserver(function (entries) {
    entries.forEach(function (entry) {
      var place = entry.target;
      if (place.scrollWidth > place.clientWidth + 1) {
        place.tabIndex = 0;
        place.setAttribute("role", "group");
        place.setAttribute("aria-label", "a table that is wider than the page");
      } else {
        place.removeAttribute("tabindex");
        place.removeAttribute("role");
        place.removeAttribute("aria-label");
      }
    });
  });
  document.querySelectorAll(".scroll").forEach(function (place) { sizes.observe(place); });
})();
