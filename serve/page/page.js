// The chat page. Texts of people and models reach it by `textContent` only, so nothing in them is ever read as HTML.

const KEY = "mmalign-key";
const SIDE = 2048; // pixels; the models look at a few hundred, so larger pictures only cost time
const LARGE = 2 << 20; // bytes
const KINDS = [["image/png", /^\x89PNG\r\n\x1a\n/], ["image/jpeg", /^\xff\xd8\xff/], ["image/webp", /^RIFF[^]{4}WEBP/]];
const SIDES = { left: "Left", right: "Right" };
const RELOAD_MS = 2000;
const NEAR = 80; // pixels from the end of the log within which it follows the text

const $ = (id) => document.getElementById(id);
const log = $("log"), text = $("text");

let limits = { max_images: 1, max_new_tokens: 1, votes: false };
let models = [];
let turns = []; // messages of the conversation, as the API takes them
let pictures = []; // of the message that is being written: {name, url}
let running = null; // the AbortController of the answer that is being written

class Refusal extends Error {} // its message is written for people

// --- the server ------------------------------------------------------------------------------------------------------

async function ask(path, body, signal) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...(body && { "Content-Type": "application/json" }), ...(key && { Authorization: `Bearer ${key}` }) };
    let response;
    try {
      response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal, credentials: "omit" });
    } catch (error) {
      throw signal?.aborted ? error : new Refusal("The server cannot be reached. Is it running?");
    }
    if (response.ok) return response;
    if (response.status !== 401) throw new Refusal(await words(response));
    if (key === sessionStorage.getItem(KEY)) await askForKey(key !== null); // else another request has asked meanwhile
  }
}

async function words(response) {
  const said = await response.json().then((body) => body.error.message, () => "");
  return said || `The server answered with status ${response.status}.`;
}

// Server-sent events, one at a time; one that holds an error is thrown.
async function* events(response, signal) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { value, done } = await reader.read().catch((error) => {
      throw signal.aborted ? error : new Refusal("The connection broke off.");
    });
    if (done) return;
    const frames = (rest + value).split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      if (!frame.startsWith("data: ") || frame === "data: [DONE]") continue;
      const event = JSON.parse(frame.slice("data: ".length));
      if (event.error) throw new Refusal(event.error.message);
      yield event;
    }
  }
}

let keyAsked = null;

function askForKey(wrong) {
  keyAsked ??= new Promise((resolve, reject) => {
    if (wrong) $("key-why").textContent = "The server did not take this key. Try another one.";
    $("key").value = "";
    $("key-dialog").returnValue = "";
    $("key-form").onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem(KEY, $("key").value);
      $("key-dialog").close("given");
    };
    $("key-dialog").onclose = () => {
      if ($("key-dialog").returnValue === "given") resolve();
      else reject(new Refusal("Without a key this server answers nothing. Reload the page to enter one."));
    };
    $("key-dialog").showModal();
  }).finally(() => { keyAsked = null; });
  return keyAsked;
}

// --- what is asked for -----------------------------------------------------------------------------------------------

const comparing = () => document.querySelector("#mode :checked").value === "compare";
const chosen = () => [$("first").value, ...(comparing() ? [$("second").value] : [])];
const steerable = () => models.filter((each) => chosen().includes(each.id) && each.mmalign.attributes);

function options() {
  const sliders = [...$("attributes").querySelectorAll("input")];
  return {
    temperature: Number($("temperature").value),
    ...($("tokens").value && { max_tokens: Number($("tokens").value) }),
    ...(sliders.length && { attributes: Object.fromEntries(sliders.map((each) => [each.name, Number(each.value)])) }),
  };
}

function showChoice() {
  $("second-field").hidden = !comparing();
  $("first-label").textContent = comparing() ? "Models" : "Model";
  $("stored").textContent = limits.votes
    ? "A vote is stored on this server, with the conversation and its pictures."
    : "Votes are not stored on this server.";
  $("stored").hidden = !comparing();
  $("empty-more").textContent = comparing()
    ? "Two models answer side by side. You learn which is which after your vote."
    : "Paste it, drop it anywhere on this page, or add it below: PNG, JPEG or WebP.";
  const ranges = Object.assign({}, ...steerable().map((each) => each.mmalign.attributes));
  const usual = Object.assign({}, ...steerable().map((each) => each.mmalign.default_attributes));
  const before = Object.fromEntries([...$("attributes").querySelectorAll("input")].map((each) => [each.name, each.value]));
  $("attributes").querySelectorAll("label").forEach((each) => each.remove());
  for (const [name, [low, high]] of Object.entries(ranges)) {
    const label = make("label", { className: "slider", textContent: `${name} ` });
    const output = make("output", { textContent: before[name] ?? usual[name] });
    const input = make("input", { type: "range", name, min: low, max: high, step: 1, value: before[name] ?? usual[name] });
    input.oninput = () => { output.textContent = input.value; };
    label.append(output, input);
    $("attributes").append(label);
  }
  $("attributes").hidden = !Object.keys(ranges).length;
}

// --- what is shown ---------------------------------------------------------------------------------------------------

const make = (name, fields) => Object.assign(document.createElement(name), fields);
const copyOf = (template) => $(template).content.firstElementChild.cloneNode(true);

function say(words) {
  $("problem").textContent = words;
  $("problem").hidden = !words;
}

function follow(change) {
  const near = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR;
  change();
  if (near) log.scrollTop = log.scrollHeight;
}

function userTurn(said, shown) {
  const turn = copyOf("user-turn");
  turn.querySelector(".text").textContent = said;
  turn.querySelector(".shown").append(...shown.map(({ name, url }) => make("img", { src: url, alt: name })));
  return turn;
}

class ModelTurn {
  constructor(name) {
    this.element = copyOf("model-turn");
    this.element.classList.add("busy");
    this.name = name;
    this.text = document.createTextNode("");
    this.element.querySelector(".text").append(this.text);
    this.element.querySelector(".copy").onclick = (event) => copy(this.element.querySelector(".text"), event.target);
  }
  set name(name) { this.element.querySelector(".who").textContent = name; }
  add(piece) { follow(() => this.text.appendData(piece)); }
  end(reason) {
    this.element.classList.remove("busy");
    const note = this.element.querySelector(".note");
    note.textContent = { stop: this.text.length ? "" : "The answer is empty.", length: "Ended at the limit of length." }[reason] ?? reason;
    follow(() => { note.hidden = !note.textContent; });
  }
}

async function copy(element, button) {
  const range = document.createRange();
  range.selectNodeContents(element);
  const selection = getSelection();
  try {
    await navigator.clipboard.writeText(element.textContent);
  } catch { // no clipboard for pages that came over plain HTTP: the old way
    selection.removeAllRanges();
    selection.addRange(range);
    document.execCommand("copy");
    selection.removeAllRanges();
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

function showBusy() {
  $("send").hidden = running !== null;
  $("stop").hidden = running === null;
  log.setAttribute("aria-busy", String(running !== null)); // an answer is read out when it is whole
}

// --- a turn ----------------------------------------------------------------------------------------------------------

async function send() {
  const said = text.value.trim();
  if (running || !models.length || !(said || pictures.length)) return;
  if (!$("tokens").checkValidity()) {
    say(`The longest answer is a whole number of tokens from 1 to ${limits.max_new_tokens}.`);
    return;
  }
  say("");
  log.querySelectorAll(".vote").forEach((each) => each.remove()); // the conversation has gone on
  const draft = { said, pictures };
  const images = pictures.map(({ url }) => ({ type: "image_url", image_url: { url } }));
  const message = { role: "user", content: [...images, ...(said ? [{ type: "text", text: said }] : [])] };
  const turn = userTurn(said, pictures);
  $("empty").hidden = true;
  log.append(turn);
  write({ said: "", pictures: [] });
  const mine = running = new AbortController();
  showBusy();
  const [answering, element] = comparing() ? compare(message, mine.signal) : chat(message, mine.signal);
  log.append(element);
  log.scrollTop = log.scrollHeight;
  try {
    await answering;
  } catch (error) {
    element.remove();
    turn.remove();
    if (!mine.discarded) {
      $("empty").hidden = log.childElementCount > 1;
      if (!text.value && !pictures.length) write(draft);
      if (!mine.signal.aborted) say(error instanceof Refusal ? error.message : "The page failed. Reload it.");
      if (!(error instanceof Refusal || mine.signal.aborted)) console.error(error);
    }
  }
  if (running === mine) running = null;
  showBusy();
}

// One answer: what there is of it stays, though it be stopped or break off.
function chat(message, signal) {
  const [model] = chosen();
  const turn = new ModelTurn(model);
  const conversation = turns;
  const answer = async () => {
    let reason = null;
    try {
      const body = { model, messages: [...conversation, message], stream: true, ...options() };
      for await (const { choices } of events(await ask("/v1/chat/completions", body, signal), signal)) {
        for (const choice of choices) {
          turn.add(choice.delta.content ?? "");
          reason = choice.finish_reason ?? reason;
        }
      }
      reason ??= "The answer broke off.";
    } catch (error) {
      if (!turn.text.length || !(signal.aborted || error instanceof Refusal)) throw error;
      reason = signal.aborted ? "Stopped." : error.message;
    }
    turn.end(reason);
    conversation.push(message, { role: "assistant", content: turn.text.data });
  };
  return [answer(), turn.element];
}

// Two answers: both whole, or none.
function compare(message, signal) {
  const element = copyOf("pair-turn");
  const sides = Object.fromEntries(Object.entries(SIDES).map(([side, name]) => [side, new ModelTurn(name)]));
  element.querySelector(".sides").append(...Object.values(sides).map((side) => side.element));
  const conversation = turns;
  const answer = async () => {
    const body = { models: chosen(), messages: [...conversation, message], stream: true, ...options() };
    let id = null;
    for await (const event of events(await ask("/page/compare", body, signal), signal)) {
      if (event.id) id = event.id;
      else sides[event.side].add(event.text);
      if (event.finish_reason) sides[event.side].end(event.finish_reason);
    }
    if (!id) throw new Refusal("The answers broke off.");
    const reply = { role: "assistant", content: sides.left.text.data };
    conversation.push(message, reply);
    follow(() => offerVote(element, id, sides, reply));
  };
  return [answer(), element];
}

function stored(names) {
  if (names.stored) return "Your vote is stored. ";
  return limits.votes ? "Your vote could not be stored. " : "";
}

function offerVote(element, id, sides, reply) {
  const vote = element.querySelector(".vote"), verdict = element.querySelector(".verdict");
  const buttons = [...vote.querySelectorAll("button")];
  vote.hidden = false;
  for (const button of buttons) {
    button.onclick = async () => {
      buttons.forEach((each) => { each.disabled = true; });
      say("");
      try {
        const names = await (await ask("/page/vote", { id, choice: button.value })).json();
        const side = button.value === "right" ? "right" : "left";
        reply.content = sides[side].text.data;
        for (const [each, title] of Object.entries(SIDES)) sides[each].name = `${title}: ${names[each]}`;
        verdict.textContent = `Left was ${names.left}, right was ${names.right}. `
          + `${stored(names)}The conversation goes on with the ${side} answer.`;
        follow(() => { verdict.hidden = false; });
        vote.remove();
        text.focus();
      } catch (error) {
        say(error.message);
        buttons.forEach((each) => { each.disabled = false; });
      }
    };
  }
}

// --- pictures --------------------------------------------------------------------------------------------------------

function write(draft) {
  text.value = draft.said;
  pictures = draft.pictures;
  showPictures();
}

function showPictures() {
  $("pictures").replaceChildren(...pictures.map((picture) => {
    const item = document.createElement("li");
    const remove = make("button", { type: "button", textContent: "×", title: "Remove", ariaLabel: `Remove ${picture.name}` });
    remove.onclick = () => {
      pictures = pictures.filter((each) => each !== picture);
      showPictures();
      text.focus();
    };
    item.append(make("img", { src: picture.url, alt: picture.name }), remove);
    return item;
  }));
}

async function add(files) {
  say("");
  for (const file of files) {
    const name = (file.name || "picture").replace(/\p{C}/gu, "").slice(0, 60); // no marks that turn the text around
    const sent = turns.flatMap((turn) => turn.content).filter((part) => part.type === "image_url").length;
    if (sent + pictures.length >= limits.max_images) {
      say(`A conversation can hold ${limits.max_images} pictures here. Begin a new one for more.`);
      return;
    }
    try {
      pictures = [...pictures, { name, url: await read(file) }];
    } catch (error) {
      say(`${name}: ${error instanceof Refusal ? error.message : "this picture cannot be read."}`);
    }
    showPictures();
  }
  text.focus();
}

// The picture as a data URL, made smaller where it is large.
async function read(file) {
  const head = String.fromCharCode(...new Uint8Array(await file.slice(0, 12).arrayBuffer()));
  const kind = KINDS.find(([, magic]) => magic.test(head))?.[0];
  if (!kind) throw new Refusal("only PNG, JPEG and WebP pictures are taken.");
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
  let blob = new Blob([file], { type: kind });
  if (scale < 1 || file.size > LARGE) {
    const canvas = new OffscreenCanvas(Math.max(1, bitmap.width * scale), Math.max(1, bitmap.height * scale));
    const context = canvas.getContext("2d");
    context.fillStyle = "white"; // behind what is transparent: JPEG has no such thing
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 });
  }
  bitmap.close();
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = reject;
    reader.readAsDataURL(blob);
  });
}

// --- what people do --------------------------------------------------------------------------------------------------

$("composer").onsubmit = (event) => { event.preventDefault(); send(); };
text.onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
};
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || $("key-dialog").open) return;
  if ($("settings").open) { $("settings").open = false; $("settings").querySelector("summary").focus(); }
  else running?.abort();
});
$("stop").onclick = () => { running?.abort(); text.focus(); };
$("new").onclick = () => {
  if (running) { running.discarded = true; running.abort(); }
  turns = [];
  log.replaceChildren($("empty"));
  $("empty").hidden = false;
  say("");
  text.focus();
};
$("add").onclick = () => $("files").click();
$("files").onchange = () => { const files = [...$("files").files]; $("files").value = ""; add(files); };
document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) { event.preventDefault(); add(files); }
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.toggle("over", kind === "dragover");
    if (kind === "drop") add([...event.dataTransfer.files]);
  });
}
document.addEventListener("click", (event) => {
  if (!$("settings").contains(event.target)) $("settings").open = false;
});
$("temperature").oninput = () => { $("temperature-value").textContent = Number($("temperature").value).toFixed(1); };
for (const each of [$("mode"), $("first"), $("second")]) each.addEventListener("change", showChoice);

async function load() {
  limits = await (await ask("/page/limits")).json();
  $("tokens").max = $("tokens").placeholder = limits.max_new_tokens;
  while (!models.length) {
    models = (await (await ask("/v1/models")).json()).data;
    if (models.length) break;
    say("The model is being loaded.");
    await new Promise((resolve) => setTimeout(resolve, RELOAD_MS));
  }
  say("");
  for (const list of [$("first"), $("second")]) {
    list.replaceChildren(...models.map(({ id }) => make("option", { value: id, textContent: id })));
  }
  $("second").selectedIndex = models.length > 1 ? 1 : 0;
  showChoice();
  text.focus();
}
load().catch((error) => say(error.message));
