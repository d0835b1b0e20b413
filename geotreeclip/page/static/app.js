// The page: asks the server, shows what it says. All text goes in as text, never as markup.

import { drawDial, drawSeries, element } from "./charts.js";
import { PlaceMap } from "./map.js";

const at = (id) => document.getElementById(id);
const MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
const TITLES = { image: "Images", terrain: "Terrain", soil: "Soil", climate: "Climate", location: "Location" };
const RANKS = { leaf_type: "Leaf type", family: "Family", genus: "Genus", species: "Species" };
const percent = (value) => (value >= 0.9995 ? "100 %" : value < 0.001 ? "< 0.1 %" : `${(100 * value).toFixed(1)} %`);
const degrees = ({ longitude, latitude }) =>
  `${Math.abs(latitude).toFixed(2)}° ${latitude < 0 ? "S" : "N"}, ${Math.abs(longitude).toFixed(2)}° ${longitude < 0 ? "W" : "E"}`;

const state = { world: null, place: null, answer: null, everything: null, hidden: new Set(), off: new Set(), asked: 0, placed: 0, table: null, truth: null };

class Refused extends Error {}

async function ask(path, options) {
  let reply;
  try {
    reply = await fetch(path, options);
  } catch {
    throw new Refused("the server does not answer; is `geotreeclip demo --serve` still running?");
  }
  let content = null;
  try {
    content = await reply.json();
  } catch {
    throw new Refused(`the server broke off (status ${reply.status})`);
  }
  if (!reply.ok) throw new Refused(content.error ?? `status ${reply.status}`);
  return content;
}

async function guarded(work, where = at("failure")) {
  try {
    await work();
    where.hidden = true;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    where.textContent = error.message;
    where.hidden = false;
  }
}

// -- the place ----------------------------------------------------------------------------------------------------------

const map = new PlaceMap(at("map"), {
  pick: ({ longitude, latitude }) => guarded(() => choose(longitude.toFixed(4), latitude.toFixed(4))),
  hover: (point) => {
    at("map-where").textContent = degrees(point);
    at("map-where").classList.remove("far");
  },
});

async function choose(longitude, latitude) {
  const number = ++state.placed;
  const place = await ask(`/api/place?${new URLSearchParams({ longitude, latitude })}`);
  if (number !== state.placed) return; // another place was chosen meanwhile
  Object.assign(state, { place, hidden: new Set(), off: new Set(), everything: null, truth: null, answer: null });
  at("longitude").value = place.longitude;
  at("latitude").value = place.latitude;
  map.choose(place.longitude, place.latitude);
  at("map-where").textContent = `The nearest place with data: ${place.sample_id} at ${degrees(place)}, ${place.distance_km} km from the point.`;
  at("map-where").classList.toggle("far", place.distance_km > 100);
  at("truth").hidden = true;
  at("truth-button").setAttribute("aria-expanded", "false");
  at("truth-button").textContent = "Show what was recorded";
  at("empty").hidden = true;
  at("answer").hidden = false;
  at("series-card").hidden = !place.images;
  at("environment-card").hidden = false;
  for (const id of ["statement", "unknown", "species-note", "set", "echo", "ladder", "species"]) at(id).replaceChildren();
  showSwitches();
  showPlace();
  await classify();
}

function visible(group) {
  return !state.off.has(group);
}

function showPlace() {
  const { images } = state.place;
  if (images) {
    const shows = document.querySelector('input[name="chart"]:checked').value;
    drawSeries(at("chart"), images, { shows, hidden: state.hidden, visible: visible("image") });
    showMonths(images);
    showNumbers(images);
    const { cycle } = images;
    at("cycle").textContent = cycle.found
      ? `Cycle: ${Object.entries(cycle.dates).map(([name, day]) => `${name} ${date(day)}`).join(", ")}; amplitude ${cycle.amplitude} EVI2${cycle.cycles > 1 ? `, the strongest of ${cycle.cycles} peaks` : ""}.`
      : `No cycle: ${cycle.why}.`;
  }
  showEnvironment();
}

function date(day) {
  const when = new Date(Date.UTC(2021, 0, 1 + Math.floor(day)));
  return `${when.getUTCDate()} ${MONTHS[when.getUTCMonth()].slice(0, 3)}`;
}

function showMonths(images) {
  const focused = document.activeElement?.dataset?.step;
  at("months").style.gridTemplateColumns = `repeat(${images.steps.length}, minmax(0, 1fr))`;
  at("months").replaceChildren(...images.steps.map((name, step) => {
    const missing = images.valid[step] === 0, on = !state.hidden.has(step);
    const long = MONTHS[step] && images.steps.length === 12 && name === MONTHS[step].slice(0, 3) ? MONTHS[step] : name;
    const button = element("button", {
      type: "button", "data-step": step, "aria-pressed": String(on && !missing), disabled: missing || !visible("image"),
      "aria-label": `${long}${missing ? ", missing" : ""}`, title: `${long}: ${missing ? "missing" : `${Math.round(100 * images.valid[step])} % of pixels seen`}`,
    }, images.steps.length === 12 && innerWidth < 620 ? name.slice(0, 1) : name);
    button.addEventListener("click", () => {
      if (on) state.hidden.add(step); else state.hidden.delete(step);
      guarded(again);
    });
    return button;
  }));
  if (focused !== undefined) at("months").querySelector(`[data-step="${focused}"]`)?.focus();
}

function showNumbers(images) {
  const rows = { ...images.index, ...images.bands };
  at("numbers").replaceChildren(
    element("tr", {}, element("th", { scope: "col" }, "Month"), ...images.steps.map((name) => element("th", { scope: "col" }, name))),
    ...Object.entries(rows).map(([name, values]) => element("tr", {}, element("th", { scope: "row" }, name),
      ...values.map((value) => element("td", {}, value === null ? "–" : value.toFixed(3))))),
  );
}

function showEnvironment() {
  const envelope = state.answer?.envelope;
  at("environment-note").textContent = "The mark is this place, the line spans the places of the map (1 to 99 %)"
    + (envelope ? `, the band is where ${envelope.label} grew in training.` : ".");
  at("dials").replaceChildren(...state.place.environment.map((dial) => {
    const value = dial.value === null ? "missing" : `${dial.value} ${dial.unit}`;
    const ends = [dial.low, dial.high].map((end) => element("span", {}, end === null ? "" : String(end)));
    return element("div", { class: visible(dial.group) ? "" : "off" },
      element("dt", {}, element("span", {}, dial.title), element("strong", {}, value)),
      element("dd", {}, drawDial(dial, envelope?.ends[dial.name]), element("div", { class: "ends", "aria-hidden": "true" }, ...ends)));
  }));
}

// -- the answer ---------------------------------------------------------------------------------------------------------

async function classify() {
  const number = ++state.asked;
  at("answer").classList.add("stale"); // until the answer to this question is there
  const inputs = state.world.inputs.filter(visible);
  const answer = await ask("/api/classify", {
    method: "POST", headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ row: state.place.row, inputs, hidden: [...state.hidden] }),
  });
  if (number !== state.asked) return; // a later question is on its way
  state.answer = answer;
  if (!state.off.size && !state.hidden.size) state.everything = answer;
  at("answer").classList.remove("stale");
  at("answer").dataset.row = state.place.row;
  showAnswer();
  showEnvironment();
}

// The switches show what was asked for at once, the answer when it is there.
async function again() {
  showSwitches();
  showPlace();
  await classify();
}

function showSwitches() {
  const focused = document.activeElement?.dataset?.group;
  const reads = state.world.model.reads;
  at("input-switches").replaceChildren(...state.world.inputs.map((group) => {
    const has = group === "image" ? Boolean(state.place.images?.valid.some((share) => share > 0)) : state.place.known[group];
    const read = reads.includes(group);
    const box = element("input", { type: "checkbox", "data-group": group, disabled: !read || !has });
    box.checked = read && has && visible(group);
    box.addEventListener("change", () => {
      if (box.checked) state.off.delete(group); else state.off.add(group);
      guarded(again);
    });
    return element("label", { title: !read ? "this model does not read it" : has ? "" : "missing at this place" }, box, TITLES[group] ?? group);
  }));
  if (focused) at("input-switches").querySelector(`[data-group="${focused}"]`)?.focus();
  at("months-off").hidden = !state.hidden.size;
  at("months-off").textContent = `Switched off in the series: ${[...state.hidden].sort((a, b) => a - b).map((step) => state.place.images.steps[step]).join(", ")}.`;
  at("everything").hidden = !state.hidden.size && !state.off.size;
}

function showAnswer() {
  const { answer } = state;
  if (!answer) return;
  at("statement").textContent = answer.statement;
  at("echo").textContent = answer.statement;
  const kind = answer.calibrated ? "Calibrated probabilities" : "Probabilities, not calibrated";
  at("unknown").textContent = `${kind}, ${answer.valid_months} of 12 months seen. A rank is given when its best name reaches ${answer.threshold}.`;
  const given = answer.ranks.find((rank) => rank.probability >= answer.threshold);
  at("ladder").replaceChildren(...[...answer.ranks].reverse().flatMap((rank) => {
    const mark = rank === given ? { class: "given" } : {};
    return [element("span", {}, RANKS[rank.rank]), element("span", mark, rank.label || "–"), element("span", mark, percent(rank.probability))];
  }));
  const before = new Map((state.everything?.answers ?? []).map((item) => [item.label, item.probability]));
  const changed = state.everything && state.everything !== answer;
  at("species").replaceChildren(...answer.answers.map((item) => species(item, changed ? before.get(item.label) : undefined)));
  const known = answer.answers.some((item) => "in_range" in item);
  at("species-note").textContent = [
    changed ? "The upright mark is the probability with everything switched on." : "",
    known ? "Range: distance to the nearest known place, and the share of the climate within what the species had in training. It looks at the whole place, and leaves nothing out." : "",
  ].filter(Boolean).join(" ");
  at("set").textContent = answer.set
    ? `In ${Math.round(100 * answer.set.level)} % of cases the truth is among: ${answer.set.labels.join(", ")}.` : "";
}

function species(item, before) {
  const fill = element("span", { class: "fill" });
  fill.style.width = `${100 * item.probability}%`;
  const track = element("div", { class: "track", "aria-hidden": "true" }, fill);
  if (before !== undefined) {
    const mark = element("span", { class: "before" });
    mark.style.left = `calc(${100 * before}% - 1px)`;
    track.append(mark);
  }
  const recorded = state.truth && state.truth.label === item.label;
  return element("li", { class: recorded ? "recorded" : "", "data-label": item.label, "data-probability": item.probability },
    element("div", { class: "line" }, element("em", {}, item.label), element("strong", {}, percent(item.probability))),
    track, plausibility(item));
}

function plausibility(item) {
  if (!("in_range" in item)) return element("span", { class: "tag" }, item.family);
  if (item.in_range === null) return element("span", { class: "tag" }, `${item.family} · range unknown`);
  const reasons = [];
  if (item.distance_km !== null) reasons.push(item.distance_km > 0 ? `${Math.round(item.distance_km).toLocaleString("en")} km` : "known here");
  if (item.climate_inside !== null) reasons.push(`climate ${Math.round(100 * item.climate_inside)}\u00a0%`);
  const said = item.in_range ? "in range" : "out of range";
  return element("span", { class: item.in_range ? "tag" : "tag out" }, `${item.family} · ${said}: ${reasons.join(", ")}`);
}

async function toggleTruth() {
  const shown = at("truth-button").getAttribute("aria-expanded") === "true";
  const { row } = state.place;
  const truth = shown ? null : await ask(`/api/truth?${new URLSearchParams({ row })}`);
  if (row !== state.place.row) return;
  state.truth = truth;
  at("truth-button").setAttribute("aria-expanded", String(!shown));
  at("truth-button").textContent = shown ? "Show what was recorded" : "Hide what was recorded";
  at("truth").hidden = shown;
  if (truth) {
    const seen = truth.role === "test" ? "a test sample, which the usual split keeps from training" : "it may have been used in training";
    at("truth").textContent = `Recorded: ${[truth.label, truth.family, truth.leaf_type].filter(Boolean).join(", ")} (${seen}).`;
  }
  showAnswer();
}

// -- own points ---------------------------------------------------------------------------------------------------------

const MOST_SHOWN = 200, MOST_BYTES = 2_000_000;

async function sendTable() {
  const [file] = at("file").files;
  state.table = null;
  at("download").hidden = at("table-scroll").hidden = true;
  at("table-status").textContent = "";
  if (!file) throw new Refused("choose a CSV file first");
  if (file.size > MOST_BYTES) throw new Refused(`${file.name} has ${file.size.toLocaleString("en")} bytes, the page takes ${MOST_BYTES.toLocaleString("en")}; \`geotreeclip classify\` takes any size`);
  at("table-status").textContent = "Working …";
  let content;
  try {
    content = await file.arrayBuffer();
  } catch {
    throw new Refused(`${file.name} cannot be read; choose it again`);
  }
  const query = new URLSearchParams({ name: file.name, worldclim: at("worldclim").value });
  try {
    state.table = await ask(`/api/table?${query}`, { method: "POST", headers: { "Content-Type": "text/csv" }, body: content });
  } finally {
    at("table-status").textContent = "";
  }
  showTable();
}

function showTable() {
  const { columns, rows, notes } = state.table;
  const text = (value) => (value === null ? "" : typeof value === "boolean" ? (value ? "yes" : "no") : String(value));
  at("table").replaceChildren(
    element("thead", {}, element("tr", {}, ...columns.map((name) => element("th", { scope: "col" }, name.replaceAll("_", " "))))),
    element("tbody", {}, ...rows.slice(0, MOST_SHOWN).map((row) => element("tr", {}, ...row.map((value) =>
      element("td", { class: typeof value === "number" ? "number" : "" }, text(value)))))),
  );
  const shown = rows.length > MOST_SHOWN ? `, the first ${MOST_SHOWN} shown` : "";
  at("table-status").textContent = [`${rows.length.toLocaleString("en")} point${rows.length === 1 ? "" : "s"}${shown}.`, ...notes.map((note) => `Note: ${note}.`)].join(" ");
  at("table-scroll").hidden = at("download").hidden = false;
}

function download() {
  const quoted = (value) => {
    const text = value === null ? "" : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = [state.table.columns, ...state.table.rows].map((row) => row.map(quoted).join(","));
  const address = URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "text/csv" }));
  const link = element("a", { href: address, download: `${state.table.name.replace(/\.[^.]*$/, "")}-answers.csv` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

// -- wiring -------------------------------------------------------------------------------------------------------------

at("place-form").addEventListener("submit", (event) => {
  event.preventDefault();
  guarded(() => choose(at("longitude").value, at("latitude").value));
});
at("any-place").addEventListener("click", () => {
  const [longitude, latitude] = state.world.cells[Math.floor(Math.random() * state.world.cells.length)];
  guarded(() => choose(longitude, latitude));
});
at("zoom-in").addEventListener("click", () => map.zoom(1.6));
at("zoom-out").addEventListener("click", () => map.zoom(1 / 1.6));
at("zoom-all").addEventListener("click", () => map.fit());
at("truth-button").addEventListener("click", () => guarded(toggleTruth));
at("everything").addEventListener("click", () => {
  state.hidden.clear();
  state.off.clear();
  guarded(again);
});
document.querySelectorAll('input[name="chart"]').forEach((radio) => radio.addEventListener("change", showPlace));
at("table-form").addEventListener("submit", (event) => {
  event.preventDefault();
  guarded(sendTable, at("table-failure"));
});
at("download").addEventListener("click", download);
let resized = 0;
addEventListener("resize", () => {
  cancelAnimationFrame(resized);
  resized = requestAnimationFrame(() => state.place && showPlace());
});

guarded(async () => {
  state.world = await ask("/api/world");
  const { model, places, role, source } = state.world;
  const which = role === "test" ? "test places" : "places";
  at("about").textContent = `${places.toLocaleString("en")} ${which} of ${source || "a packed set"}; model ${model.name}, ${model.taxa.toLocaleString("en")} taxa, reads ${model.reads.join(", ")}.`;
  map.show(state.world.cells);
});
