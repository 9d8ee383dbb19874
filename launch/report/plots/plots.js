/* Draws every figure of the page from the JSON beside it, when it comes near the window, and before the page is printed.
   Texts are put in as text; colours are the page's CSS variables, so a theme needs no drawing anew. */
(function () {
  "use strict";
  var NEAR = "200px"; // around the window
  var ink = "var(--ink)", soft = "var(--soft)", line = "var(--line)";
  var font = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';
  var CONFIG = {
    background: null,
    font: font,
    view: { stroke: null },
    axis: {
      labelColor: soft, titleColor: soft, gridColor: line, domainColor: soft, tickColor: soft,
      labelFontSize: 11, titleFontSize: 11.5, titleFontWeight: "normal", labelOverlap: true,
      tickCount: 4, tickSize: 4, titlePadding: 6
    },
    axisY: { domain: false, ticks: false },
    axisBand: { labelColor: ink, labelFontSize: 12.5, labelPadding: 6 },
    text: { fontSize: 12 }
  };

  function rowsOf(found) {
    var fields = Object.keys(found.columns), rows = [];
    for (var at = 0; at < found.columns[fields[0]].length; at++) {
      var row = {};
      fields.forEach(function (field) {
        var value = found.columns[field][at], names = found.names[field];
        row[field] = names ? names[value] : value;
      });
      rows.push(row);
    }
    return rows;
  }

  function draw(figure) {
    var place = figure.querySelector(".plot");
    if (figure.dataset.state === "drawn" || !place.clientWidth) return;
    figure.dataset.state = "drawn";
    var found = JSON.parse(figure.querySelector("script").textContent), rows = rowsOf(found);
    var spec = Object.assign({}, found.spec, {
      width: "container", autosize: { type: "fit", contains: "padding", resize: true }, datasets: { rows: rows }
    });
    spec.height = found.spec.height + 40; // with the axis
    var parsed = vega.parse(vegaLite.compile(spec, { config: CONFIG }).spec, null, { ast: true });
    var view = new vega.View(parsed, {
      container: place, renderer: "svg", expr: expressionInterpreter, logLevel: vega.Warn, hover: false
    });
    view.tooltip(function (handler, event, item, value) {
      if (value === null || value === undefined) return hide();
      show(event, lines(value));
    });
    view.run();
    place.firstElementChild.setAttribute("aria-hidden", "true"); // the figure has a label, and the table the numbers
    if (found.follow) follow(place, view, rows, found.follow);
  }

  /* The tip at the pointer. */
  var tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true"); // the tables hold the same numbers

  function lines(value) {
    if (typeof value !== "object") return [String(value)];
    return Object.keys(value).map(function (key) { return (key.trim() ? key + " " : "") + value[key]; });
  }

  function show(event, told) {
    tip.replaceChildren.apply(tip, told.map(function (text) {
      var row = document.createElement("div");
      row.textContent = text;
      return row;
    }));
    tip.hidden = false;
    var x = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 6);
    var y = event.clientY + 18 + tip.offsetHeight > window.innerHeight ? event.clientY - tip.offsetHeight - 10
      : event.clientY + 18;
    tip.style.left = Math.max(x, 4) + "px";
    tip.style.top = y + "px";
  }

  function hide() { tip.hidden = true; }

  function number(value, percent) {
    if (percent) return (100 * value).toFixed(1) + "%";
    return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en-US") : String(Number(value.toPrecision(4)));
  }

  /* Of each curve the point nearest to the pointer's x. */
  function follow(place, view, rows, how) {
    var curves = new Map();
    rows.forEach(function (row) {
      var name = row.s + (row.d ? ", dashed" : "");
      if (!curves.has(name)) curves.set(name, []);
      curves.get(name).push(row);
    });
    var mark = document.createElement("div");
    mark.className = "at";
    mark.hidden = true;
    place.appendChild(mark);
    place.addEventListener("pointermove", function (event) {
      var svg = place.querySelector("svg"), box = svg.getBoundingClientRect(), origin = view.origin();
      var scale = box.width / svg.width.baseVal.value;
      var x = view.scale("x"), left = origin[0];
      var at = x.invert(Math.min(Math.max((event.clientX - box.left) / scale - left, 0), view.width()));
      var best = null;
      var told = Array.from(curves, function (pair) {
        var near = pair[1].reduce(function (a, b) { return Math.abs(b.x - at) < Math.abs(a.x - at) ? b : a; });
        if (best === null || Math.abs(near.x - at) < Math.abs(best - at)) best = near.x;
        return [pair[0], near];
      }).filter(function (pair) { return how.square || Math.abs(pair[1].x - best) <= Math.abs(x.invert(12) - x.invert(0)); });
      show(event, [how.x + " " + number(best, how.square)].concat(told.map(function (pair) {
        var row = pair[1], ends = row.low === null || row.low === undefined ? ""
          : " (" + number(row.low, how.percent) + " to " + number(row.high, how.percent) + ")";
        return pair[0] + ": " + number(row.y, how.percent) + ends;
      })));
      mark.hidden = false;
      mark.style.left = (x(best) + left) * scale + "px";
    });
    place.addEventListener("pointerleave", function () { mark.hidden = true; hide(); });
  }

  var figures = Array.from(document.querySelectorAll("figure.drawn"));
  document.body.appendChild(tip);
  document.addEventListener("scroll", hide, { passive: true });
  var near = new Set(), waits = false;
  var seen = new IntersectionObserver(function (entries) {
    entries.forEach(function (entry) { near[entry.isIntersecting ? "add" : "delete"](entry.target); });
    if (!waits) later();
  }, { rootMargin: NEAR });
  function later() { waits = near.size > 0; if (waits) setTimeout(next); }
  function next() { // one at a time: the page answers between two of them
    var figure = near.values().next().value;
    if (figure) { near.delete(figure); draw(figure); }
    later();
  }
  figures.forEach(function (figure) { seen.observe(figure); });
  window.addEventListener("beforeprint", function () { figures.forEach(draw); });
})();
