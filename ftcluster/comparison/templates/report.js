"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const plots = [...document.querySelectorAll(".plot")];
  const panels = [...document.querySelectorAll("section[role=tabpanel]")];
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Figures ----------------------------------------------------------------------------------------------------
  // Plotly is packed; it is unpacked behind the first picture of the page, which can be read without it.
  const nonce = document.currentScript.nonce;
  const plotly = (async () => {
    const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.nonce = nonce;
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  })();
  const themed = (layout) => {
    const line = colour("--line"), text = colour("--text");
    const axis = { gridcolor: line, zerolinecolor: colour("--quiet"), linecolor: line };
    const font = { color: text, size: 12, family: getComputedStyle(document.body).fontFamily };
    const page = colour("--page");
    const annotations = (layout.annotations || []).map((note) => ({ ...note, bgcolor: page, opacity: 0.9 }));
    return {
      ...layout, font, annotations, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      hoverlabel: { bgcolor: page, bordercolor: line, font: { color: text } },
      xaxis: { ...layout.xaxis, ...axis }, yaxis: { ...layout.yaxis, ...axis },
    };
  };
  const draw = async (root) => {
    await plotly;
    for (const plot of root.querySelectorAll(".plot")) {
      const figure = figures[plot.dataset.figure];
      const options = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] };
      Plotly.react(plot, figure.data, themed(figure.layout), options);
    }
  };
  // A hidden figure has no width, so each is drawn when its tab is first seen.
  const drawVisible = () => Promise.all(panels.filter((panel) => !panel.hidden).map(draw));

  // Tabs -------------------------------------------------------------------------------------------------------
  const select = (tab, focus) => {
    for (const other of tabs) {
      const chosen = other === tab;
      other.setAttribute("aria-selected", String(chosen));
      other.tabIndex = chosen ? 0 : -1;
      document.getElementById(other.getAttribute("aria-controls")).hidden = !chosen;
    }
    if (focus) tab.focus();
    drawVisible();
  };
  tabs.forEach((tab, at) => {
    tab.addEventListener("click", () => select(tab, false));
    tab.addEventListener("keydown", (event) => {
      const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (move) select(tabs[(at + move + tabs.length) % tabs.length], true);
    });
  });
  document.querySelector("nav").hidden = false;
  const wanted = document.getElementById("tab-" + location.hash.slice(1));
  select(wanted || tabs[0], false);

  // Tables -----------------------------------------------------------------------------------------------------
  const cellValue = (row, at) => {
    const cell = row.cells[at];
    return "value" in cell.dataset ? cell.dataset.value : cell.textContent.trim();
  };
  const sortBy = (table, heading) => {
    const at = heading.cellIndex, body = table.tBodies[0], rows = [...body.rows];
    const down = heading.getAttribute("aria-sort") === "ascending";
    const numeric = rows.every((row) => cellValue(row, at) === "" || !Number.isNaN(Number(cellValue(row, at))));
    const compare = (a, b) => {
      const x = cellValue(a, at), y = cellValue(b, at);
      if (x === "" || y === "") return (x === "") - (y === "");  // the unknown stay last either way
      const order = numeric ? Number(x) - Number(y) : x.localeCompare(y, undefined, { numeric: true });
      return down ? -order : order;
    };
    rows.sort(compare).forEach((row) => body.append(row));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    for (const heading of table.tHead.rows[0].cells) {
      heading.tabIndex = 0;
      heading.addEventListener("click", () => sortBy(table, heading));
      heading.addEventListener("keydown", (event) => { if (event.key === "Enter") sortBy(table, heading); });
    }
  }

  // Answers ----------------------------------------------------------------------------------------------------
  const views = [...document.querySelectorAll("[data-view]")];
  for (const view of views) {
    view.addEventListener("click", () => {
      const tag = view.dataset.view;
      views.forEach((other) => other.setAttribute("aria-pressed", String(other === view)));
      for (const question of document.querySelectorAll(".question")) {
        question.hidden = tag !== "all" && !question.dataset.tags.split(" ").includes(tag);
      }
    });
  }

  // Light and dark ---------------------------------------------------------------------------------------------
  const toggle = document.getElementById("theme"), system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const label = () => { toggle.textContent = isDark() ? "Light" : "Dark"; drawVisible(); };
  toggle.hidden = false;
  toggle.addEventListener("click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; label(); });
  system.addEventListener("change", label);
  label();

  // Paper: every part, on white, at the width of the page --------------------------------------------------------
  let before = null;
  addEventListener("beforeprint", () => {
    before = { theme: document.documentElement.dataset.theme, hidden: panels.map((panel) => panel.hidden) };
    document.documentElement.dataset.theme = "light";
    panels.forEach((panel) => { panel.hidden = false; });
    document.querySelectorAll("details").forEach((part) => { part.open = true; });
    drawVisible().then(() => plots.forEach((plot) => Plotly.Plots.resize(plot)));
  });
  addEventListener("afterprint", () => {
    if (before.theme) document.documentElement.dataset.theme = before.theme; else delete document.documentElement.dataset.theme;
    panels.forEach((panel, at) => { panel.hidden = before.hidden[at]; });
    drawVisible();
  });
})();
