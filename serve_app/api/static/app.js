// Wires the page: the token, the photo, the settings, and one request at a time.

import { FaceAvatarClient, FaceAvatarError, isFinished, requireSuccess } from "/client.js";
import { MorePhotos } from "/page/more-photos.js";
import { PhotoPicker, fittingTogether } from "/page/photo.js";
import { Results, announce } from "/page/results.js";
import { SettingsForm } from "/page/settings.js";
import { curlOf, pythonOf } from "/page/snippets.js";
import { inWords, sentence } from "/page/words.js";

const TOKEN = "face-avatar-token";
const TASK = "face-avatar-task";
const PHOTO_ERRORS = ["Image URL Error", "Face Consistent Error"];
const SAMPLE = "/page/sample.png";
const COPIED_MS = 1500;
const LOOPBACK = ["127.0.0.1", "[::1]", "localhost"];
const UNUSABLE_TOKEN = "This is no token: it has characters that none has.";
const FOREIGN_TOKEN = "This link brings a token. Whoever it belongs to can see what you make with it. Use it?";

const $ = (id) => document.getElementById(id);
const page = { client: new FaceAvatarClient({}), token: "", task: null, busy: false };

const photo = new PhotoPicker({
  check,
  changed: refresh,
  refused: (error) => { if (error.status === 401) askForToken(inWords(error)); },
  sample: () => page.client.avatars.download(SAMPLE),
  sampled: () => form.suggestGender("female"), // who is on it is known
  more: (files) => {
    morePhotos.clear();
    if (files.length) morePhotos.add(files);
  },
});
const morePhotos = new MorePhotos({ check, changed: refresh });
const form = new SettingsForm(refresh);
const results = new Results({ useSeed: (seed) => form.useSeed(seed), download: (url) => page.client.avatars.download(url, { retries: 0 }) });

/** From the address, where the command line put it; or from this tab. It does not stay in the address.
 *  Whoever sends a link with their own token could read what is made with it, so it is taken unasked only where the
 *  service runs on this machine, in a tab that has no other one. */
function takeToken() {
  const own = sessionStorage.getItem(TOKEN) ?? "";
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!given) return own;
  history.replaceState(null, "", location.pathname);
  const isOurs = own === given || (!own && LOOPBACK.includes(location.hostname));
  if (!isOurs && !confirm(FOREIGN_TOKEN)) return own;
  sessionStorage.setItem(TOKEN, given);
  return given;
}

async function connect(token) {
  try {
    page.client = new FaceAvatarClient({ token, retries: 1 }); // its user sees what is wrong, and can try again
    page.token = token;
  } catch {
    return askForToken(UNUSABLE_TOKEN);
  }
  if (!token) return askForToken("");
  try {
    form.show(await page.client.apps.list());
    sessionStorage.setItem(TOKEN, token);
    $("token-card").hidden = true;
    $("change-token").hidden = false;
    photo.recheck();
    morePhotos.recheck();
    resume();
  } catch (error) {
    if (error.status === 401) askForToken(inWords(error));
    else $("form-error").textContent = inWords(error);
  }
}

async function check(file, signal) {
  if (!page.token) throw new FaceAvatarError("No Token", "", { status: 401 });
  return page.client.faces.inspect(file, { appId: form.app?.app_id, signal });
}

function askForToken(problem) {
  sessionStorage.removeItem(TOKEN);
  $("token-card").hidden = false;
  $("change-token").hidden = true;
  $("token-error").textContent = problem;
  $("token").value = "";
  $("token").focus();
}

function refresh() {
  const ready = photo.accepted && morePhotos.accepted && !page.busy;
  morePhotos.offer(photo.accepted);
  $("generate").setAttribute("aria-disabled", String(!ready));
  $("generate").textContent = page.busy ? "Drawing…" : "Generate";
  if (photo.accepted && morePhotos.accepted) $("form-error").textContent = "";
  const parameters = form.parameters();
  $("curl").textContent = curlOf(parameters, names());
  $("python").textContent = pythonOf(parameters, names());
}

/** Of the photos, the first one's first. */
function names() {
  return [photo.name, ...morePhotos.files.map((file) => file.name)];
}

async function generate() {
  if (page.busy) return;
  if (!photo.accepted) {
    $("form-error").textContent = photo.file ? "Another photo is needed first." : "Choose a photo first.";
    return;
  }
  if (!morePhotos.accepted) {
    $("form-error").textContent = "Remove the photos that cannot be used first.";
    return;
  }
  const parameters = form.parameters();
  const { batch } = parameters;
  setBusy(true);
  const photos = await fittingTogether([photo.file, ...morePhotos.files]);
  results.start(batch, { url: await copyOf(photo.file), name: photo.name, count: photos.length });
  await watch(async () => ({ id: (await submit(photos, parameters)).task_id, batch, name: photo.name, count: photos.length }));
}

function submit(photos, parameters) {
  return page.client.avatars.submit(photos, { ...parameters, previews: true });
}

/** What was being drawn when the page was left or loaded anew; its photo was forgotten then. */
async function resume() {
  const task = JSON.parse(sessionStorage.getItem(TASK) ?? "null");
  if (page.busy || !task) return;
  results.start(task.batch, { url: "", name: task.name, count: task.count });
  await watch(async () => task);
}

/** Follow a task that `begin` brings, until its end. */
async function watch(begin) {
  setBusy(true);
  try {
    const task = await begin();
    sessionStorage.setItem(TASK, JSON.stringify(task));
    await follow(task.id);
  } catch (error) {
    if (!(error instanceof FaceAvatarError)) throw error;
    refused(error);
  } finally {
    sessionStorage.removeItem(TASK);
    page.task = null;
    setBusy(false);
  }
}

async function follow(id) {
  page.task = id;
  $("cancel").hidden = false;
  for await (const envelope of page.client.avatars.events(page.task)) {
    if (envelope.output.progress) results.progress(envelope.output.progress);
    if (envelope.status === "CANCELLED") results.cancelled();
    else if (isFinished(envelope)) results.success(requireSuccess(envelope));
  }
}

function refused(error) {
  const elsewhere = error.name === "Invalid Request" ? form.showErrors(error.fields) : [];
  const more = elsewhere.map(({ field, message }) => ` ${field}: ${sentence(message)}`).join("");
  results.failure(inWords(error) + more);
  if (PHOTO_ERRORS.includes(error.name)) {
    photo.recheck();
    morePhotos.recheck();
  }
  if (error.status === 401) askForToken(inWords(error));
}

async function cancel() {
  $("cancel").hidden = true;
  $("progress-text").textContent = "Cancelling…";
  announce("Cancelling.");
  try {
    await page.client.avatars.cancel(page.task); // its events tell the end
  } catch (error) {
    $("cancel").hidden = false;
    $("progress-text").textContent = inWords(error);
  }
}

function setBusy(busy) {
  page.busy = busy;
  $("cancel").hidden = true; // until there is a task
  $("results").setAttribute("aria-busy", String(busy));
  refresh();
}

/** The photo as it is now: the one on the form may be another one when the avatars are done. */
async function copyOf(file) {
  return URL.createObjectURL(new Blob([await file.arrayBuffer()], { type: file.type }));
}

async function copy(button) {
  const code = $(button.dataset.copy);
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(code.textContent);
  } else { // over plain HTTP
    getSelection().selectAllChildren(code);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  announce("Copied.");
  setTimeout(() => { button.textContent = "Copy"; }, COPIED_MS);
}

window.addEventListener("hashchange", () => connect(takeToken()));
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  connect($("token").value.trim());
});
$("change-token").addEventListener("click", () => askForToken(""));
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
// The face model of another app may see something else on the photo.
$("app_id").addEventListener("change", () => photo.recheck());
$("form").addEventListener("reset", () => setTimeout(() => { if (form.apps.length > 1) photo.recheck(); }));
$("cancel").addEventListener("click", cancel);
for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button));

refresh();
connect(takeToken());
