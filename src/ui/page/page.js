"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const files = data.files;
  const count = files.names.length;
  const layers = data.layers.length;
  const MOST_ROWS = 500;
  const parents = new Int32Array(count).fill(-1);
  const ends = new Int32Array(count);
  const modes = new Array(count);
  const mtimes = new Float64Array(count);

  // Entries stand in the order of a walk; how deep each is says the rest.
  {
    const above = [];
    let mtime = 0;
    for (let i = 0; i < count; i++) {
      const depth = files.depths[i];
      while (above.length > depth) ends[above.pop()] = i;
      if (depth > 0) parents[i] = above[depth - 1];
      above.push(i);
      modes[i] = files.attributes[files.attribute[i]];
      mtime += files.mtimes[i];
      mtimes[i] = mtime;
    }
    while (above.length) ends[above.pop()] = count;
  }
  const kind = (i) => files.kinds[i];
  const isDir = (i) => kind(i) === "d";

  // What is shown: the finished image, or what one layer did.
  let chosen = -1;
  let here = 0;
  let filter = "";
  let sort = "size";
  let marks = null;
  let sizes = null;
  // Below a directory that is drawn as one tile: the layer of the largest file.
  let main = null;

  function look() {
    sizes = new Float64Array(count);
    marks = null;
    if (chosen < 0) {
      for (let i = 0; i < count; i++) if (!files.gone[i]) sizes[i] = files.sizes[i];
    } else {
      marks = new Uint8Array(count);
      const change = data.changes[chosen];
      [change.added, change.changed, change.removed].forEach((list, n) => {
        let at = 0;
        for (const step of list) {
          at += step;
          marks[at] = n + 1;
          if (n < 2) sizes[at] = files.sizes[at];
        }
      });
      for (const [at, size] of change.sizes) sizes[at] = size;
    }
    main = Int32Array.from(files.layers);
    const most = new Float64Array(count);
    for (let i = count - 1; i > 0; i--) {
      const up = parents[i];
      sizes[up] += sizes[i];
      const largest = isDir(i) ? most[i] : sizes[i];
      if (largest > most[up]) { most[up] = largest; main[up] = main[i]; }
      if (marks && marks[i] && !marks[up]) marks[up] = 4;
    }
  }
  const there = (i) => i === 0 || (marks ? marks[i] > 0 : !files.gone[i]);

  function below(i) {
    const list = [];
    for (let c = i + 1; c < ends[i]; c = ends[c]) if (there(c)) list.push(c);
    return list;
  }

  // Control characters, and those that turn the direction of writing, are
  // made visible.
  const DANGEROUS = /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u061c\u2028-\u202e\u2066-\u2069]/g;
  const show = (text) => text.replace(DANGEROUS, (c) => "\\u{" + c.codePointAt(0).toString(16) + "}");

  function path(i) {
    const parts = [];
    for (; i > 0; i = parents[i]) parts.push(files.names[i]);
    return "/" + parts.reverse().join("/");
  }

  function size(bytes) {
    if (bytes < 1000) return bytes + "B";
    const units = ["kB", "MB", "GB", "TB", "PB", "EB"];
    let unit = -1;
    do { bytes /= 1000; unit++; } while (bytes >= 999.5 && unit + 1 < units.length);
    return String(Number(bytes.toPrecision(3))) + units[unit];
  }

  function mode(i) {
    const bits = modes[i][0];
    const letter = (n, c) => (bits & n ? c : "-");
    const run = (n, special, c) => bits & special ? (bits & n ? c : c.toUpperCase()) : letter(n, "x");
    return (kind(i) === "f" || kind(i) === "h" ? "-" : kind(i)) +
      letter(256, "r") + letter(128, "w") + run(64, 2048, "s") +
      letter(32, "r") + letter(16, "w") + run(8, 1024, "s") +
      letter(4, "r") + letter(2, "w") + run(1, 512, "t");
  }

  function time(seconds) {
    const date = new Date(seconds * 1000);
    return isNaN(date) ? String(seconds) : date.toISOString().slice(0, 19).replace("T", " ");
  }

  const color = (layer) => "hsl(" + ((layer * 137.508 + 210) % 360).toFixed(0) + " 55% 70%)";

  function element(name, attributes, ...content) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "click") made.addEventListener("click", value);
      else made.setAttribute(key, value);
    }
    made.append(...content);
    return made;
  }
  function drawn(name, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }
  const get = (id) => document.getElementById(id);

  // Squarified treemap: rows along the shorter side, as square as they get.
  function squares(items, x, y, w, h, put) {
    let total = 0;
    for (const item of items) total += sizes[item];
    if (total <= 0) return;
    const scale = (w * h) / total;
    let at = 0;
    while (at < items.length && w > 0.5 && h > 0.5) {
      const side = Math.min(w, h);
      let sum = 0, end = at, worst = Infinity;
      while (end < items.length) {
        const area = sizes[items[end]] * scale;
        if (area <= 0) break;
        const next = sum + area;
        const largest = sizes[items[at]] * scale;
        const thick = next / side;
        const ratio = Math.max((largest / thick) / thick, thick / (area / thick));
        if (end > at && ratio > worst) break;
        worst = ratio;
        sum = next;
        end++;
      }
      if (end === at) return;
      const thick = sum / side;
      let offset = 0;
      for (; at < end; at++) {
        const long = (sizes[items[at]] * scale) / thick;
        if (w >= h) put(items[at], x, y + offset, thick, long);
        else put(items[at], x + offset, y, long, thick);
        offset += long;
      }
      if (w >= h) { x += thick; w -= thick; } else { y += thick; h -= thick; }
    }
  }

  const bySize = (a, b) => sizes[b] - sizes[a];
  let left = 0;

  function tile(group, i, x, y, w, h, depth) {
    if (w < 2 || h < 2 || left <= 0) return;
    left--;
    const directory = isDir(i);
    const opened = directory && depth < 6 && w > 12 && h > 20;
    const box = { x: x.toFixed(1), y: y.toFixed(1), width: w.toFixed(1), height: h.toFixed(1) };
    if (opened) box.class = "dir"; else box.fill = color(main[i]);
    group.append(drawn("rect", box));
    const label = w > 34 && h > 15;
    if (label) {
      const letters = Math.floor((w - 6) / 6.2);
      let name = show(files.names[i]);
      if (directory) name += "/";
      if (name.length > letters) name = name.slice(0, Math.max(letters - 1, 0)) + "…";
      group.append(drawn("text", { x: (x + 4).toFixed(1), y: (y + 12).toFixed(1), class: opened ? "dir" : "file" }, name));
    }
    if (opened) {
      const head = label ? 16 : 2;
      squares(below(i).sort(bySize), x + 2, y + head, w - 4, h - head - 2,
        (c, a, b, d, e) => tile(group, c, a, b, d, e, depth + 1));
    }
  }

  function map() {
    const svg = get("map");
    const width = Math.max(svg.clientWidth, 200), height = svg.clientHeight || 520;
    svg.setAttribute("viewBox", "0 0 " + width + " " + height);
    svg.replaceChildren();
    left = 6000;
    squares(below(here).sort(bySize), 0, 0, width, height, (i, x, y, w, h) => {
      if (w < 1 || h < 1) return;
      const what = show(path(i)) + ", " + size(sizes[i]) + ", layer " + (files.layers[i] + 1);
      const group = drawn("g", { class: "top", tabindex: "0", role: "button", "aria-label": what });
      tile(group, i, x, y, w, h, 0);
      group.append(drawn("title", {}, what));
      const act = () => go(isDir(i) && ends[i] > i + 1 ? i : here);
      group.addEventListener("click", act);
      group.addEventListener("keydown", (e) => {
        if (e.key === "Enter" || e.key === " ") { e.preventDefault(); act(); }
      });
      svg.append(group);
    });
  }

  function wanted() {
    let test;
    if (/[*?]/.test(filter)) {
      const whole = filter.includes("/");
      const text = (whole ? filter : "**/" + filter).replace(/^\/+/, "");
      const pattern = text.replace(/[.+^${}()|[\]\\]/g, "\\$&")
        .replace(/\*\*\/|\*\*|\*|\?/g, (t) => ({ "**/": "(.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]" })[t]);
      const expression = new RegExp("^/" + pattern + "$");
      test = (p) => expression.test(p);
    } else {
      const exact = /\p{Lu}/u.test(filter);
      test = exact ? (p) => p.includes(filter) : (p) => p.toLowerCase().includes(filter);
    }
    const found = [];
    const prefix = [];
    for (let i = 1; i < count; i++) {
      const depth = files.depths[i];
      prefix.length = depth;
      prefix[depth] = (depth > 1 ? prefix[depth - 1] : "") + "/" + files.names[i];
      if (there(i) && test(prefix[depth])) found.push(i);
    }
    return found;
  }

  const orders = {
    name: (a, b) => (files.names[a] < files.names[b] ? -1 : 1),
    size: bySize,
    mtime: (a, b) => mtimes[b] - mtimes[a],
    layer: (a, b) => files.layers[a] - files.layers[b],
  };

  function table() {
    const found = filter ? wanted() : below(here);
    found.sort(orders[sort]);
    get("found").textContent = found.length + (found.length === 1 ? " entry" : " entries") +
      (found.length > MOST_ROWS ? ", the first " + MOST_ROWS + " are shown" : "");
    const rows = found.slice(0, MOST_ROWS).map((i) => {
      let name = show(filter ? path(i) : files.names[i]) + (isDir(i) ? "/" : "");
      if (files.links[i] !== undefined) name += " → " + show(files.links[i]);
      const enter = isDir(i) && ends[i] > i + 1;
      const letter = marks ? ["", "A", "C", "R", ""][marks[i]] : "";
      return element("tr", {},
        element("td", { class: "mono " + letter }, letter),
        element("td", { class: "text mono" }, enter ? element("button", { type: "button", click: () => go(i) }, name) : name),
        element("td", { class: "n" }, size(sizes[i])),
        element("td", { class: "mono short" }, mode(i)),
        element("td", { class: "mono" }, modes[i][1] + ":" + modes[i][2]),
        element("td", { class: "mono short" }, time(mtimes[i])),
        element("td", { class: "n" }, String(files.layers[i] + 1)));
    });
    get("rows").replaceChildren(...rows);
    for (const button of document.querySelectorAll("#files th button")) {
      const on = button.dataset.sort === sort;
      button.parentElement.setAttribute("aria-sort", on ? (sort === "name" || sort === "layer" ? "ascending" : "descending") : "none");
    }
  }

  function crumbs() {
    const chain = [];
    for (let i = here; i >= 0; i = parents[i]) chain.push(i);
    const parts = [];
    for (const i of chain.reverse()) {
      const name = i === 0 ? "/" : show(files.names[i]) + "/";
      parts.push(i === here ? element("span", { "aria-current": "location" }, name)
        : element("button", { type: "button", click: () => go(i) }, name));
    }
    get("where").replaceChildren(...parts, element("span", { class: "soft" }, "  " + size(sizes[here])));
  }

  function go(i) {
    here = i;
    filter = "";
    get("filter").value = "";
    crumbs();
    map();
    table();
  }

  function choose(layer) {
    chosen = layer;
    get("layer").value = String(layer);
    document.querySelectorAll("#layers tbody tr").forEach((row, n) => row.classList.toggle("chosen", n === layer));
    look();
    while (here > 0 && !there(here)) here = parents[here];
    go(here);
  }

  const select = get("layer");
  select.append(element("option", { value: "-1" }, "the whole image"));
  for (let n = 0; n < layers; n++) {
    select.append(element("option", { value: String(n) }, "what layer " + (n + 1) + " changed"));
  }
  select.addEventListener("change", () => choose(Number(select.value)));
  document.querySelectorAll("#layers tbody tr").forEach((row, n) => {
    const cell = row.cells[0];
    cell.replaceChildren(element("button", { type: "button", "aria-label": "show what layer " + (n + 1) + " changed", click: () => { choose(n); get("explore").scrollIntoView(); } }, cell.textContent));
  });
  let waiting = 0;
  get("filter").addEventListener("input", (e) => {
    filter = e.target.value;
    clearTimeout(waiting);
    waiting = setTimeout(table, 120);
  });
  for (const button of document.querySelectorAll("#files th button")) {
    button.addEventListener("click", () => { sort = button.dataset.sort; table(); });
  }
  let drawing = 0;
  new ResizeObserver(() => { clearTimeout(drawing); drawing = setTimeout(map, 60); }).observe(get("map"));
  get("explore").hidden = false;
  look();
  go(0);
})();
