// Charts as SVG, made of elements and text nodes alone: nothing that came from a file is read as markup.

const NAMESPACE = "http://www.w3.org/2000/svg";

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function drawn(name, attributes = {}, ...children) {
  const made = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Colours of the bands, from blue over green and red to infrared; told apart by the legend's letters too.
const BANDS = {
  B2: "#4f7fd0", B3: "#3f9d58", B4: "#d0524a", B5: "#c58a1e", B6: "#a8a02a", B7: "#7fa83a",
  B8: "#8a5fc0", B8A: "#b06fc8", B11: "#8d6e57", B12: "#7d8790",
};
const LEFT = 28, TOP = 22, BOTTOM = 20;

// A year: lines of values by day, missing and hidden months as shaded columns, the dates of the cycle as dotted lines.
export function drawSeries(frame, images, { shows, hidden, visible }) {
  const width = Math.max(260, frame.clientWidth), height = width < 480 ? 200 : 230;
  const lines = images[shows];
  const known = Object.values(lines).flat().filter((value) => value !== null);
  const [bottom, top, gap] = scale(Math.min(0, ...known), Math.max(shows === "index" ? 1 : 0.3, ...known));
  const x = (day) => LEFT + (day / 365) * (width - LEFT);
  const y = (value) => TOP + (1 - (value - bottom) / (top - bottom)) * (height - TOP - BOTTOM);
  const chart = drawn("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": summary(images, shows) });
  const column = (width - LEFT) / images.steps.length;
  const shaded = images.valid.some((share, step) => share === 0 || hidden.has(step)) || !visible;
  images.steps.forEach((name, step) => {
    const off = hidden.has(step) || !visible, missing = images.valid[step] === 0;
    if (!off && !missing) return;
    const left = x(images.days[step]) - column / 2;
    chart.append(drawn("rect", { x: left, y: TOP, width: column, height: height - TOP - BOTTOM, fill: "var(--line)", opacity: missing ? 0.9 : 0.45 }));
  });
  for (let value = bottom; value < top + gap / 2; value += gap) {
    chart.append(drawn("line", { x1: LEFT, x2: width, y1: y(value), y2: y(value), stroke: "var(--line)" }));
    chart.append(drawn("text", { x: LEFT - 5, y: y(value) + 4, "text-anchor": "end" }, Math.abs(value).toFixed(1).replace(/^/, value < -gap / 2 ? "−" : "")));
  }
  if (shows === "index" && images.cycle.found) cycle(chart, images.cycle, x, y, height, width);
  Object.entries(lines).forEach(([name, values], index) => {
    const stroke = shows === "index" ? ["var(--second)", "var(--accent)"][index] : BANDS[name];
    line(chart, images, values, hidden, visible, { x, y, stroke });
  });
  frame.replaceChildren(chart, legend(Object.keys(lines), shows, images.cycle.found, shaded));
}

// Ends and steps of an axis with round numbers.
function scale(low, high) {
  const step = high - low > 0.5 ? 0.2 : 0.1;
  return [Math.floor(low / step + 1e-6) * step, Math.ceil(high / step - 1e-6) * step, step];
}

function line(chart, images, values, hidden, visible, { x, y, stroke }) {
  const order = images.days.map((_, step) => step).sort((a, b) => images.days[a] - images.days[b]);
  let path = "", open = false;
  for (const step of order) {
    if (values[step] === null) { open = false; continue; } // no line across missing months
    path += `${open ? "L" : "M"}${x(images.days[step]).toFixed(1)} ${y(values[step]).toFixed(1)}`;
    open = true;
  }
  chart.append(drawn("path", { d: path, fill: "none", stroke, "stroke-width": 2, "stroke-linejoin": "round", opacity: visible ? 1 : 0.4 }));
  for (const step of order) {
    if (values[step] === null) continue;
    const off = hidden.has(step) || !visible;
    chart.append(drawn("circle", { cx: x(images.days[step]), cy: y(values[step]), r: 3, fill: off ? "var(--card)" : stroke, stroke }));
  }
}

function cycle(chart, found, x, y, height, width) {
  let path = "";
  for (const [day, value] of found.curve) if (value !== null) path += `${path ? "L" : "M"}${x(day).toFixed(1)} ${y(value).toFixed(1)}`;
  chart.append(drawn("path", { d: path, fill: "none", stroke: "var(--accent)", "stroke-width": 6, opacity: 0.18 }));
  let last = -100;
  const dates = Object.entries(found.dates).sort((a, b) => a[1] - b[1]);
  for (const [name, day] of dates) {
    const at = x(day);
    chart.append(drawn("line", { x1: at, x2: at, y1: TOP - 4, y2: height - BOTTOM, stroke: "var(--warm)", "stroke-dasharray": "2 3" }));
    const label = width < 480 ? name.slice(0, 1).toUpperCase() : name;
    const room = label.length * 7;
    const start = Math.min(width - room, Math.max(LEFT, at - room / 2));
    if (start < last + 6) continue; // the text below names all dates
    chart.append(drawn("text", { x: start, y: TOP - 9 }, label));
    last = start + room;
  }
}

function legend(names, shows, found, shaded) {
  const row = element("p", { class: "small quiet" });
  names.forEach((name, index) => {
    const swatch = drawn("svg", { width: 14, height: 8, "aria-hidden": "true" },
      drawn("rect", { width: 12, height: 4, y: 2, rx: 2, fill: shows === "index" ? ["var(--second)", "var(--accent)"][index] : BANDS[name] }));
    Object.assign(swatch.style, { display: "inline-block", width: "14px" });
    const item = element("span", {}, swatch, ` ${name}`);
    item.style.marginRight = "0.8rem";
    item.style.whiteSpace = "nowrap";
    row.append(item);
  });
  const rest = shows === "bands" ? "reflectance" : found ? "broad line: the fitted year of EVI2" : "";
  row.append([rest, shaded ? "grey: missing or off" : ""].filter(Boolean).join("; "));
  return row;
}

function summary(images, shows) {
  const seen = images.valid.filter((share) => share > 0).length;
  return `${shows === "index" ? "Vegetation indices" : "Reflectance of ten bands"} over the year, ${seen} of ${images.steps.length} steps seen; the numbers follow as a table`;
}

// Where a value lies between the ends of what the places shown have; the envelope of the likeliest species as a band.
export function drawDial({ value, low, high }, envelope) {
  const dial = drawn("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  const at = (number) => (high > low ? Math.min(100, Math.max(0, ((number - low) / (high - low)) * 100)) : 50);
  dial.append(drawn("rect", { x: 0, y: 4, width: 100, height: 2, rx: 1, fill: "var(--line)" }));
  if (envelope && envelope[0] !== null && envelope[1] !== null) {
    const from = at(envelope[0]);
    dial.append(drawn("rect", { x: from, y: 2.5, width: Math.max(0.5, at(envelope[1]) - from), height: 5, fill: "var(--accent)", opacity: 0.35 }));
  }
  if (value !== null) dial.append(drawn("rect", { x: at(value) - 0.5, y: 0, width: 1, height: 10, fill: "var(--ink)" }));
  return dial;
}
