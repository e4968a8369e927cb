"use strict";
const $ = (id) => document.getElementById(id);
let classes = [];
let task = "boxes";
let answer = null;
let truth = null;
let asked = 0;
let tried = 0;
let headers = {};
let lowest = 0;
let last = null;
let copied = () => "";
const SILENT = "The service does not answer.";
const LONG = 300; // characters of a text in the answer that are shown; all are copied
const MOST = 2048; // pixels of a mask's longer side that are drawn

const hue = (name) => (Math.max(0, classes.indexOf(name)) * 137.5 + 210) % 360;
const listed = (names) => names.slice(0, 12).join(", ") + (names.length > 12 ? ` and ${names.length - 12} more` : "");
const ask = (path, options = {}) => fetch(path, { ...options, headers }).then((response) => {
  $("key").hidden = response.status !== 401 && $("key").hidden;
  return response;
});
const element = (kind, text, style = {}) => {
  const made = Object.assign(document.createElement(kind), { textContent: text });
  for (const [key, value] of Object.entries(style)) made.style.setProperty(key, value);
  return made;
};

function drawn(box) {
  const percent = (value, whole) => `${(100 * value) / whole}%`;
  const made = element("div", "", {
    left: percent(box.x1, answer.width), top: percent(box.y1, answer.height),
    width: percent(box.x2 - box.x1, answer.width), height: percent(box.y2 - box.y1, answer.height),
    "--hue": hue(box.name),
  });
  made.className = "box";
  made.append(element("span", "score" in box ? `${box.name} ${box.score.toFixed(2)}` : box.name));
  return made;
}

// Above its box, in it or below it, inside the image; one that would cover a name of higher score shows on hover.
const placeNames = () => document.querySelectorAll(".view").forEach(placeNamesIn);
function placeNamesIn(view) {
  const image = view.querySelector("img").getBoundingClientRect();
  const boxes = [...view.querySelectorAll(".box")];
  for (const box of boxes) box.className = "box";
  const sizes = boxes.map((box) => [box.getBoundingClientRect(), box.firstChild.getBoundingClientRect()]);
  const taken = [];
  boxes.forEach((box, i) => {
    const [sides, { width, height }] = sizes[i];
    const x = Math.max(image.left, Math.min(sides.left, image.right - width));
    const fits = (y) => y >= image.top && (y === sides.top || y + height <= image.bottom);
    const free = (y) => taken.every((other) => x >= other.x + other.width || other.x >= x + width || Math.abs(other.y - y) >= height);
    const places = [sides.top - height, sides.top, sides.bottom].filter(fits);
    const y = places.find(free);
    if (y === undefined) box.className = "box bare";
    else taken.push({ x, y, width });
    box.firstChild.style.setProperty("left", `${x - sides.left - 2}px`);
    box.firstChild.style.setProperty("top", `${(y ?? places[0]) - sides.top - 2}px`);
  });
}

// For each task: the answer from a score on, the line of each class in the list, and what is drawn over the image.
const TASKS = {
  boxes: {
    verb: "Finds",
    from: (score) => {
      const boxes = answer.boxes.filter((box) => box.score >= score);
      const names = [...new Set(boxes.map((box) => box.name))].sort();
      const counts = names.map((name) => ({ name, count: boxes.filter((box) => box.name === name).length }));
      return { ...answer, labels: names, counts, boxes };
    },
    lines: ({ counts }) => counts.map(({ name, count }) => [name, `${count} ${name}`]),
    found: ({ boxes }) => boxes.length,
    draw: ({ boxes }) => boxes.map(drawn),
  },
  mask: {
    verb: "Segments",
    from: () => answer,
    lines: ({ labels }) => labels.map((name) => [name, `${name} ${(100 * answer.shares[classes.indexOf(name)]).toFixed(1)} %`]),
    found: ({ labels }) => labels.length,
    draw: ({ canvas }) => {
      canvas.style.setProperty("opacity", $("threshold").value);
      return [canvas];
    },
  },
  labels: {
    verb: "Classifies",
    from: (score) => ({ ...answer, labels: above(score) }),
    lines: ({ labels, scores }) => labels.map((name) => [name, scores ? `${name} ${scores[name].toFixed(2)}` : name]),
    found: ({ labels }) => labels.length,
    draw: badges,
  },
  counts: {
    verb: "Counts",
    from: (score) => {
      const labels = above(score);
      return { ...answer, labels, counts: labels.map((name) => ({ name, count: Math.max(1, even(answer.expected[name])) })) };
    },
    lines: ({ counts }) => counts.map(({ name, count }) => [name, `${count} ${name}`]),
    found: ({ counts }) => counts.reduce((sum, { count }) => sum + count, 0),
    draw: badges,
  },
};

const above = (score) => Object.keys(answer.scores).filter((name) => answer.scores[name] >= score).sort();
const even = (value) => (Math.abs(value % 1) === 0.5 ? 2 * Math.round(value / 2) : Math.round(value)); // as in Python

function badges(seen) {
  const made = element("div", "");
  made.className = "badges";
  made.append(...inOrder(seen).map(([name, text]) => element("span", text, { "--hue": hue(name) })));
  return [made];
}

const inOrder = (seen) => TASKS[task].lines(seen).sort(([a], [b]) => classes.indexOf(a) - classes.indexOf(b));

async function painted({ mask, width, height }) {
  const bytes = Uint8Array.from(atob(mask), (character) => character.charCodeAt(0));
  const picture = await createImageBitmap(new Blob([bytes], { type: "image/png" }), { colorSpaceConversion: "none" });
  const scale = Math.min(1, MOST / Math.max(width, height));
  const size = { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
  const canvas = Object.assign(document.createElement("canvas"), size);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const inks = [[0, 0, 0, 0], ...classes.map((name) => {
    context.fillStyle = `hsl(${hue(name)} 90% 55%)`; // which is read as #rrggbb
    return [...context.fillStyle.match(/\w\w/g).map((digits) => Number(`0x${digits}`)), 255];
  })];
  const other = [128, 128, 128, 255]; // not annotated
  context.imageSmoothingEnabled = false;
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  const pixels = inks.map(() => 0);
  for (let i = 0; i < image.data.length; i += 4) {
    const value = image.data[i];
    pixels[value] += 1;
    image.data.set(inks[value] ?? other, i);
  }
  context.putImageData(image, 0, 0);
  return { canvas, shares: pixels.slice(1).map((count) => count / (canvas.width * canvas.height)) };
}

function show() {
  const score = Number($("threshold").value);
  $("least").value = score.toFixed(2);
  if (!answer) return;
  const seen = TASKS[task].from(score);
  $("drawn").replaceChildren(...TASKS[task].draw(seen));
  $("known").replaceChildren(...(truth ? TASKS[task].draw(truth) : []));
  $("truth").hidden = !truth || $("stage").hidden;
  placeNames();
  $("counts").replaceChildren(...inOrder(seen).map(([name, text]) => element("li", text, { "--hue": hue(name) })));
  $("counts").tabIndex = $("counts").scrollHeight > $("counts").clientHeight ? 0 : -1;
  $("json").textContent = readable(seen, (text) => (text.length > LONG ? `${text.slice(0, LONG)}…` : text));
  copied = () => readable(seen, (text) => text);
  say(`${answer.width} × ${answer.height} pixels, ${TASKS[task].found(seen)} found in ${answer.taken} ms` +
    ($("stage").hidden ? "; this browser cannot show the image" : ""));
}

const shortened = (key, value) => (["x1", "y1", "x2", "y2"].includes(key) ? Math.round(100 * value) / 100 : value);

function readable({ taken, canvas, shares, ...data }, text) {
  const value = (item) => (item?.[0] instanceof Object
    ? `[${item.map((part) => `\n  ${JSON.stringify(part, shortened)}`).join(",")}\n ]`
    : JSON.stringify(typeof item === "string" ? text(item) : item));
  return `{${Object.entries(data).map(([key, item]) => `\n ${JSON.stringify(key)}: ${value(item)}`).join(",")}\n}`;
}

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").className = bad ? "bad" : "";
}

function clear() {
  answer = truth = null;
  $("truth").hidden = true;
  $("drawn").replaceChildren();
  $("counts").replaceChildren();
  $("json").textContent = "";
  $("copy").disabled = true;
}

function preview(file) {
  URL.revokeObjectURL($("image").src);
  $("image").src = URL.createObjectURL(file);
  return $("image").decode().then(() => {
    $("same").src = $("image").src;
    $("same").className = $("image").className = $("image").naturalWidth < 320 ? "small" : "";
    const most = `calc(max(320px, 100vh - 240px) * ${$("image").naturalWidth / $("image").naturalHeight})`;
    $("truth").style.maxWidth = $("stage").style.maxWidth = most;
    $("stage").hidden = false;
  }, () => { $("stage").hidden = true; });
}

async function predict(file, known = {}) {
  const mine = ++asked;
  last = file;
  clear();
  say("Predicting …");
  await preview(file);
  try {
    const started = performance.now();
    const response = await ask(`predict?threshold=${lowest}`, { method: "POST", body: new Blob([file]) });
    const data = await read(response);
    const taken = Math.round(performance.now() - started);
    if (mine !== asked) return;
    if (!response.ok) return say(data.error, true);
    const pictures = task === "mask" ? await Promise.all([data, known].map((each) => each.mask && painted(each))) : [];
    if (mine !== asked) return;
    answer = { ...data, taken, ...pictures[0] };
    truth = known[task] ? { ...known, ...pictures[1] } : null;
    $("copy").disabled = false;
    show();
  } catch {
    if (mine === asked) say(SILENT, true);
  }
}

// A proxy may answer in the service's place, and not in JSON.
async function read(response) {
  if (response.status === 401) return { error: headers.Authorization ? "The key is wrong." : "The service asks for a key." };
  return response.json().catch(() => ({ error: `answered with ${response.status} ${response.statusText}` }));
}

async function introduce() {
  const response = await ask("manifest").catch(() => null);
  if (!response) return say(SILENT, true);
  const manifest = await read(response);
  if (!response.ok) return say(manifest.error, true);
  say("");
  ({ classes, task } = manifest);
  const least = manifest.score_threshold;
  lowest = Math.min(0.05, least);
  Object.assign($("threshold"), task === "mask" ? { min: 0, value: 0.7 } : { min: lowest, value: least });
  $("sliding").textContent = task === "mask" ? "Mask over the image" : "Score at least";
  document.title = $("title").textContent = `${manifest.project ? `${manifest.project}, e` : "E"}xperiment ${manifest.experiment}`;
  $("about").textContent = `${TASKS[task].verb} ${listed(classes)}`;
  describe(manifest);
  show();
  return true;
}

const MEANING = {
  images: "not used in training",
  train_images: "used in training",
  score_threshold: "lower scores are left out",
  mAP: "mean average precision over IoU 0.50 to 0.95",
  mAP50: "mean average precision at IoU 0.50",
  mAP75: "mean average precision at IoU 0.75",
  precision: "share of the predictions that are right",
  recall: "share of the objects that are found",
  F1: "harmonic mean of precision and recall",
  mIoU: "intersection over union, mean over classes",
  pixel_accuracy: "share of the pixels that are right",
  macroF1: "F1, mean over classes",
  exact: "share of the images with all labels right",
  MAE: "mean absolute error of the count of a class",
  total_MAE: "mean absolute error of the count of an image",
  exact_count: "share of the images with every count right",
};

function describe({ metrics = {}, git = {}, hyperparameters = {}, data = {}, ...manifest }) {
  const rounded = ([name, value]) => [name, typeof value !== "number" || Number.isInteger(value) ? String(value) : value.toFixed(3)];
  const single = Object.entries(metrics).filter(([, value]) => !(value instanceof Object));
  const nested = Object.entries(metrics).filter(([, value]) => value instanceof Object);
  const commit = git.commit ? `${git.commit.slice(0, 12)}${git.dirty ? " and changes" : ""}` : "none";
  const made = [["commit", commit], ["model", manifest.script?.module.split(".").pop() ?? "not recorded"], ["init", manifest.init?.source ?? "none"],
    ...(manifest.pretrained ? [["pretrained weights", `${manifest.pretrained.source}, ${manifest.pretrained.license}`]] : []),
    ...Object.entries(data).filter(([name]) => name.startsWith("Datasets/")).map(([name, hash]) => [name, hash.slice(0, 12)])];
  $("use").textContent = "Intended for images like those it was trained on; it is not evaluated on others. Do not base a decision " +
    `about a person on its predictions alone. Images are scaled to ${manifest.input.size} pixels on the longer side.`;
  $("facts").replaceChildren(table("On test images", single.map(rounded)), ...nested.map(([name, values]) =>
    table(`${name} of each class`, Object.entries(values).map(rounded))), table("Made from", made),
  table("Trained with", [...Object.entries(hyperparameters), ["seed", manifest.seed ?? "not recorded"]]));
  $("card").hidden = false;
}

function table(title, rows) {
  const made = element("div", "");
  const body = element("table", "");
  body.append(element("caption", title), ...rows.map(([name, value]) => {
    const row = element("tr", "");
    row.append(Object.assign(element("th", name), { scope: "row" }), element("td", value));
    if (MEANING[name] && title === "On test images") row.firstChild.append(element("small", MEANING[name]));
    return row;
  }));
  made.append(body);
  if (rows.length > 20) Object.assign(made, { className: "long", tabIndex: 0, role: "region", ariaLabel: title });
  return made;
}

const take = (files) => { if (files.length) predict(files[0]); };
$("file").addEventListener("change", () => { take($("file").files); $("file").value = ""; });
$("sample").addEventListener("click", async () => {
  const number = tried++;
  const [response, known] = await Promise.all(["sample", "sample/truth"].map((path) => ask(`${path}?number=${number}`).catch(() => null)));
  if (!response?.ok) return say(response ? (await read(response)).error : SILENT, true);
  predict(await response.blob(), known?.ok ? await read(known) : {});
});
$("threshold").addEventListener("input", show);
$("copy").addEventListener("click", () => { // navigator.clipboard is missing on plain http
  const put = (event) => { event.clipboardData.setData("text/plain", copied()); event.preventDefault(); };
  document.addEventListener("copy", put);
  getSelection().selectAllChildren($("json"));
  $("copy").textContent = document.execCommand("copy") ? "Copied" : "Not copied";
  document.removeEventListener("copy", put);
  setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
});
window.addEventListener("resize", placeNames);
window.addEventListener("paste", (event) => take(event.clipboardData.files));
for (const kind of ["dragover", "dragleave", "drop"]) {
  window.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind !== "drop") return;
    if (!event.dataTransfer.files.length) say("No file was dropped: save the image first, then choose it.", true);
    take(event.dataTransfer.files);
  });
}
$("key").addEventListener("submit", async (event) => {
  event.preventDefault();
  headers = { Authorization: `Bearer ${$("secret").value.trim()}` };
  if (!await introduce()) return;
  $("key").hidden = true;
  $("file").focus();
  if (last) predict(last);
});
$("manifest").addEventListener("click", async (event) => {
  event.preventDefault();  // a link would not send the key
  const manifest = await (await ask("manifest")).json();
  copied = () => JSON.stringify(manifest, null, 1);
  $("json").textContent = copied();
  $("json").scrollIntoView({ block: "center" });
  $("copy").disabled = false;
});
introduce();
