// The page for people: a medium and a question in, an answer out. Text from anywhere is set as text, never as markup.

const $ = (id) => document.getElementById(id);
const state = { medium: null, known: null, fetched: {}, asked: 0, moved: 0 };

function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

function fail(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
}

async function call(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("The server does not answer: is it still running?");
  }
  $("signin").hidden = response.status !== 401;
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Error(told.error || `The server answers with status ${response.status}.`);
}

async function predict(medium, fields) {
  const form = new FormData();
  form.append("file", medium.blob, medium.name);
  for (const [name, value] of Object.entries(fields)) if (value !== "") form.append(name, value);
  return (await call("/predict", { method: "POST", body: form })).json();
}

// The medium

function show(medium) {
  if (state.medium && !state.fetched[state.medium.name]) URL.revokeObjectURL(state.medium.address);
  state.medium = medium;
  fail("");
  for (const id of ["answer", "looks"]) $(id).replaceChildren();
  $("stage").replaceChildren(framed(medium));
  $("name").textContent = `${medium.name}, ${Math.ceil(medium.blob.size / 1024)} kB`;
  listTasks();
}

function framed(medium) {
  const frame = element("div", "", "frame");
  const tag = { image: "img", video: "video", audio: "audio" }[medium.modality];
  const player = document.createElement(medium.blob.type === "image/gif" ? "img" : tag);
  player.addEventListener("error", () => {
    frame.replaceChildren(element("p", "This browser cannot show the file; the model may still read it.", "soft"));
  });
  if (tag === "img") player.alt = medium.name;
  else Object.assign(player, { controls: true, loop: true, muted: tag === "video", autoplay: tag === "video" });
  medium.address ??= URL.createObjectURL(medium.blob);
  player.src = medium.address;
  frame.append(player);
  return frame;
}

function modalityOf(blob, name) {
  if (blob.type === "image/gif") return "video";
  const kind = blob.type.split("/")[0];
  if (["image", "video", "audio"].includes(kind)) return kind;
  if (/\.(mkv|avi|mp4|mov|webm)$/i.test(name)) return "video";
  return /\.(flac|opus|ogg|mp3|m4a|wav)$/i.test(name) ? "audio" : "image"; // else the server says what it thinks
}

function open(file) {
  if (file.size > state.known.limits.bytes) {
    return fail(`${file.name} has more than ${state.known.limits.bytes / 2 ** 20} MiB: take a smaller file.`);
  }
  show({ blob: file, name: file.name, modality: modalityOf(file, file.name) });
}

async function exampleMedium({ file }) {
  if (!state.fetched[file]) {
    const blob = await (await call(`/examples/${encodeURIComponent(file)}`)).blob();
    state.fetched[file] = { blob, name: file, modality: modalityOf(blob, file) };
  }
  return state.fetched[file];
}

async function takeExample(example) {
  show(await exampleMedium(example));
  $("task").value = example.task;
  $("text").value = example.text;
  needText();
  await ask();
}

// Camera and microphone

async function record(stream, name, type) {
  const recorder = new MediaRecorder(stream);
  const parts = [];
  recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
  const ended = new Promise((resolve) => recorder.addEventListener("stop", resolve));
  recorder.start();
  setTimeout(() => recorder.stop(), 2000);
  await ended;
  stop(stream);
  const container = recorder.mimeType.includes("mp4") ? "mp4" : recorder.mimeType.includes("ogg") ? "ogg" : "webm";
  open(new File(parts, `${name}.${container}`, { type: `${type}/${container}` }));
}

function stop(stream) {
  for (const track of stream.getTracks()) track.stop();
  $("live").hidden = true;
}

const devices = navigator.mediaDevices;
const use = (wanted) =>
  devices.getUserMedia(wanted).catch((error) => {
    throw new Error(`The browser gives no access: ${error.message}`);
  });

// The question

function option(value, text = value) {
  const made = element("option", text);
  made.value = value;
  return made;
}

function listTasks() {
  const before = $("task").value;
  const tasks = Object.entries(state.known.models[$("model").value].tasks);
  const fitting = tasks.filter(([, task]) => task.modality === state.medium?.modality);
  $("task").replaceChildren(...fitting.map(([name]) => option(name, name.replaceAll("_", " "))));
  if (fitting.some(([name]) => name === before)) $("task").value = before;
  needText();
}

function needText() {
  const task = state.known.models[$("model").value].tasks[$("task").value];
  $("text-label").hidden = !(task?.text ?? true);
}

function bar(text, probability) {
  const line = element("div", "", "other");
  const fill = element("i");
  fill.style.width = `${Math.min(probability * 100, 100)}%`;
  line.append(fill, element("span", text || "(nothing)"), element("span", percent(probability)));
  return line;
}

const percent = new Intl.NumberFormat("en", { style: "percent", maximumSignificantDigits: 3 }).format;

function shown(answer, note) {
  const said = element("p", answer.box ? answer.box.map((side) => side.toFixed(1)).join(", ") : answer.answer || "(nothing)");
  said.className = "said";
  said.append(" ", element("small", answer.box ? `box in pixels, ${percent(answer.score)}` : percent(answer.score)));
  const others = answer.box ? [] : answer.alternatives.map(([text, probability]) => bar(text, probability));
  return [said, ...others, ...(note ? [element("p", note, "note")] : [])];
}

async function drawBox(frame, box) {
  frame.querySelector(".box")?.remove();
  const picture = frame.querySelector("img");
  if (!box || !picture) return;
  await picture.decode();
  const [width, height] = [picture.naturalWidth, picture.naturalHeight];
  const drawn = element("div", "", "box");
  drawn.style.left = `${(100 * box[0]) / width}%`;
  drawn.style.top = `${(100 * box[1]) / height}%`;
  drawn.style.width = `${(100 * (box[2] - box[0])) / width}%`;
  drawn.style.height = `${(100 * (box[3] - box[1])) / height}%`;
  picture.parentElement.append(drawn);
}

async function drawLook({ picture, weights }, highest, size) {
  const image = new Image();
  image.src = picture;
  await image.decode();
  const canvas = element("canvas");
  const scale = size / Math.max(image.width, image.height);
  canvas.width = image.width * scale;
  canvas.height = image.height * scale;
  const heat = element("canvas");
  [heat.height, heat.width] = [weights.length, weights[0].length];
  const pixels = new ImageData(heat.width, heat.height);
  weights.flat().forEach((weight, place) => pixels.data.set([255, 70, 0, (210 * weight) / highest], 4 * place));
  heat.getContext("2d").putImageData(pixels, 0, 0);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  context.drawImage(heat, 0, 0, canvas.width, canvas.height);
  return canvas;
}

async function ask() {
  if (!state.medium) return fail("First open a file, or take an example.");
  fail("");
  const turn = ++state.asked;
  $("go").disabled = true;
  try {
    const text = $("text-label").hidden ? "" : $("text").value;
    const fields = { text, task: $("task").value, model: $("model").value, attention: $("attention").checked };
    const { answers, note } = await predict(state.medium, fields);
    if (turn !== state.asked) return; // asked again meanwhile
    const [answer] = answers;
    $("answer").replaceChildren(...shown(answer, note));
    drawBox($("stage").firstChild, answer.box);
    $("answer").scrollIntoView({ block: "nearest" }); // on a narrow screen it is far below the examples
    const looks = answer.attention ?? [];
    const highest = Math.max(...looks.flatMap((look) => look.weights.flat()));
    const drawn = looks.map((look) => drawLook(look, highest, looks.length > 1 ? 120 : 360));
    $("looks").replaceChildren(...(await Promise.all(drawn)));
  } finally {
    $("go").disabled = false;
  }
}

// Between two models

function sideOptions(select, model) {
  const own = state.known.models[model].own;
  const { examples } = state.known;
  const options = examples.map(({ file, task, text }, index) =>
    option(index, `${task.replaceAll("_", " ")}: ${text || file}`));
  select.replaceChildren(option("mine", "the question above"), ...options);
  const fitting = examples.findIndex(({ task }) => own.includes(task));
  select.value = fitting < 0 ? "mine" : fitting;
}

async function side(select, place, fields) {
  const mine = select.value === "mine";
  if (mine && !state.medium) return place.replaceChildren(element("p", "First open a file above.", "soft"));
  const example = state.known.examples[select.value];
  const medium = mine ? state.medium : await exampleMedium(example);
  const question = mine ? { text: $("text-label").hidden ? "" : $("text").value, task: $("task").value } : example;
  const { answers, note } = await predict(medium, { ...fields, text: question.text, task: question.task });
  return () => {
    const frame = framed(medium);
    place.replaceChildren(frame, ...shown(answers[0], note));
    return drawBox(frame, answers[0].box);
  };
}

async function move() {
  const turn = ++state.moved;
  const t = Number($("t").value);
  $("share").textContent = `${Math.round(100 * (1 - t))} % first, ${Math.round(100 * t)} % second`;
  const places = document.querySelectorAll(".side");
  const fields = { model: $("first").value, second: $("second").value, t };
  const drawn = await Promise.all([side($("left"), places[0], fields), side($("right"), places[1], fields)]);
  if (turn === state.moved) await Promise.all(drawn.map((draw) => draw?.()));
}

// The page

const told = (work) => (event) => {
  event?.preventDefault?.();
  return Promise.resolve(work(event)).catch((error) => fail(error.message));
};

function listen() {
  $("file").addEventListener("change", told(() => $("file").files[0] && open($("file").files[0])));
  $("stage").addEventListener("dragover", (event) => event.preventDefault());
  $("stage").addEventListener("drop", told((event) => event.dataTransfer.files[0] && open(event.dataTransfer.files[0])));
  $("ask").addEventListener("submit", told(ask));
  $("model").addEventListener("change", told(listTasks));
  $("task").addEventListener("change", told(needText));
  for (const id of ["first", "second", "left", "right", "t"]) {
    $(id).addEventListener(id === "t" ? "input" : "change", told(() => {
      if (id === "first") sideOptions($("left"), $("first").value);
      if (id === "second") sideOptions($("right"), $("second").value);
      return move();
    }));
  }
  if (!devices?.getUserMedia || !window.MediaRecorder) return;
  $("camera").hidden = $("microphone").hidden = false;
  const viewfinder = $("viewfinder");
  $("camera").addEventListener("click", told(async () => {
    viewfinder.srcObject = await use({ video: true });
    $("live").hidden = false;
  }));
  $("snap").addEventListener("click", told(async () => {
    const canvas = element("canvas");
    [canvas.width, canvas.height] = [viewfinder.videoWidth, viewfinder.videoHeight];
    canvas.getContext("2d").drawImage(viewfinder, 0, 0);
    stop(viewfinder.srcObject);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    open(new File([blob], "camera.png", { type: "image/png" }));
  }));
  $("film").addEventListener("click", told(() => record(viewfinder.srcObject, "camera", "video")));
  $("microphone").addEventListener("click", told(async () => record(await use({ audio: true }), "microphone", "audio")));
}

// `#example=2&attention=1` takes the third example, `#first=a&second=b&t=0.5` sets the slider
async function fromAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  $("attention").checked = wanted.has("attention");
  const example = state.known.examples[wanted.get("example")];
  for (const id of ["first", "second"]) if (wanted.has(id)) $(id).value = wanted.get(id);
  if (wanted.has("t")) $("t").value = wanted.get("t");
  sideOptions($("left"), $("first").value);
  sideOptions($("right"), $("second").value);
  await Promise.all([example && takeExample(example), wanted.has("second") && move()]);
  document.body.dataset.ready = "yes";
}

async function start() {
  state.known = await (await call("/models")).json();
  const names = Object.keys(state.known.models);
  for (const id of ["model", "first", "second"]) $(id).replaceChildren(...names.map((name) => option(name)));
  $("second").value = names[Math.min(1, names.length - 1)];
  $("between").hidden = names.length < 2;
  const known = Object.values(state.known.models).map(({ own }) => own); // none: the folder does not tell
  state.known.examples = state.known.examples.filter(({ task }) => known.some((own) => !own.length || own.includes(task)));
  const buttons = state.known.examples.map((example) => {
    const button = element("button", `${example.task.replaceAll("_", " ")}: ${example.text || example.file}`);
    button.type = "button";
    button.addEventListener("click", told(() => takeExample(example)));
    return button;
  });
  $("examples").replaceChildren(...buttons);
  await fromAddress();
}

listen();
$("signin").addEventListener("submit", told(() => {
  sessionStorage.setItem("token", $("token").value);
  return start();
}));
told(start)();
