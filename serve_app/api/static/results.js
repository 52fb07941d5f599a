// What becomes of a request: progress while it is drawn, then the avatars beside the photo they were made of.

import { count, seconds } from "/page/words.js";
import { zipOf } from "/page/zip.js";

const STAGES = { fetch: "Photo", face: "Face", diffusion: "Drawing", finish: "Finishing", store: "Storing" };

const $ = (id) => document.getElementById(id);

export class Results {
  /** `useSeed(seed)` is called when somebody wants to go on from an avatar; `download(url)` brings one as a file. */
  constructor({ useSeed, download }) {
    Object.assign(this, { useSeed, download });
    this.files = [];
    $("download-all").addEventListener("click", () => this.#downloadAll());
    $("download-receipts").addEventListener("click", () => this.#downloadReceipts());
    $("compare-close").addEventListener("click", () => $("compare").close());
  }

  /** `photo.url` is empty where the photo was forgotten: the page was loaded anew. It is the first of `photo.count`. */
  start(images, photo) {
    if (this.photo?.url) URL.revokeObjectURL(this.photo.url);
    this.photo = photo;
    this.done = 0;
    for (const id of ["empty", "alert", "summary"]) $(id).hidden = true;
    $("progress").hidden = false;
    $("bar").removeAttribute("value");
    $("progress-text").textContent = "Sending the photo…";
    this.waiting = Array.from({ length: images }, waitingTile);
    $("grid").replaceChildren(...this.#photoTile(), ...this.waiting);
    $("results").scrollIntoView();
    announce(`Drawing ${count(images, "avatar", "avatars")}.`);
  }

  progress({ step, steps, images_done: done, images, queue_position: position, eta_s: eta, image_steps: made = [], previews = [] }) {
    const left = eta === null ? "" : ` · about ${seconds(Math.ceil(eta))} left`;
    const drawn = steps ? `Step ${step} of ${steps}` : "Drawing";
    $("progress-text").textContent = position > 0
      ? `Number ${position} in the queue${left}`
      : `${drawn} · ${done} of ${images} done${left}`;
    $("bar").value = Math.max(steps ? step / steps : 0, 0.02);
    this.waiting.forEach((tile, index) => {
      tile.classList.toggle("drawn", made[index] === steps);
      tile.style.setProperty("--made", steps ? (made[index] ?? 0) / steps : 0);
      if (previews[index]) showPreview(tile, previews[index]);
    });
    if (done > this.done) announce(`${done} of ${images} done.`);
    this.done = done;
  }

  success(envelope) {
    const { result, seeds, face_similarity: likenesses, attempts = [], receipts = [], warnings = [] } = envelope.output;
    const { output_format: format, remove_background: cut, bg_color: colour, min_similarity: asked } = envelope.input;
    const ending = format === "jpeg" ? "jpg" : format;
    const stem = this.photo.name.replace(/\.\w+$/, "") || "avatar";
    this.#end();
    const avatars = result.map((url, index) => ({
      url,
      name: `${stem}-${seeds[index]}.${ending}`,
      seed: seeds[index],
      likeness: likenesses[index],
      tries: attempts[index]?.length ?? 1,
      unlike: asked !== null && (likenesses[index] ?? -1) < asked,
      transparent: cut && !colour,
      title: `Avatar ${index + 1} of ${result.length}`,
    }));
    this.files = avatars.filter((avatar) => avatar.url);
    this.receipts = receipts;
    $("grid").replaceChildren(...this.#photoTile(warnings), ...avatars.map((avatar) => this.#tile(avatar)));
    const withheld = result.length - this.files.length;
    this.#summarise(envelope.time_required, this.files.length, withheld);
    announce(`${count(this.files.length, "avatar is", "avatars are")} done${withheldInWords(withheld)}.`);
  }

  failure(text) {
    this.#end();
    this.#alert(text, false);
  }

  cancelled() {
    this.#end();
    this.#alert("Cancelled.", true);
  }

  #end() {
    $("progress").hidden = true;
    for (const preview of $("grid").querySelectorAll(".preview")) URL.revokeObjectURL(preview.src);
    $("grid").replaceChildren();
  }

  #alert(text, calm) {
    $("alert").classList.toggle("calm", calm);
    $("alert").textContent = text;
    $("alert").hidden = false;
  }

  /** With what its owner should know about it; shown without the picture where that was forgotten. */
  #photoTile(warnings = []) {
    const several = this.photo.count > 1;
    const hints = warnings.map(({ photo, message }) =>
      made("p", { className: "hint" }, several ? `Photo ${photo + 1}: ${message}` : message));
    if (!this.photo.url) return hints.length ? [made("div", { className: "tile" }, ...hints)] : [];
    const picture = made("div", { className: "picture" }, made("img", { src: this.photo.url, alt: "The photo that they were made of" }));
    return [made("div", { className: "tile" }, picture, made("p", { className: "caption" }, several ? `Your ${this.photo.count} photos` : "Your photo"), ...hints)];
  }

  #tile(avatar) {
    if (!avatar.url) return this.#withheldTile(avatar);
    const picture = made("button", { type: "button", className: avatar.transparent ? "picture checker" : "picture" },
      made("img", { src: avatar.url, alt: avatar.title }));
    picture.setAttribute("aria-label", `${avatar.title}: compare with the photo`);
    picture.disabled = !this.photo.url; // with nothing to compare
    picture.addEventListener("click", () => this.#compare(avatar));
    const caption = made("p", { className: "caption" },
      made("span", { className: "likeness" }, likenessInWords(avatar.likeness)),
      made("span", { className: "soft" }, `seed ${avatar.seed}`));
    const download = made("a", { href: avatar.url, download: avatar.name }, "Download");
    download.setAttribute("aria-label", `Download ${avatar.title.toLowerCase()}`);
    const again = made("button", { type: "button", className: "quiet" }, "Use seed");
    again.setAttribute("aria-label", `Use seed ${avatar.seed} for the next avatars`);
    again.addEventListener("click", () => this.useSeed(avatar.seed));
    const tries = made("p", { className: "hint" }, triesInWords(avatar)); // without words it is not shown
    return made("div", { className: "tile avatar" }, picture, caption, tries, made("div", { className: "actions" }, download, again));
  }

  #withheldTile({ seed }) {
    const text = made("p", { className: "hint" }, "Withheld by the safety check. Another seed may help.");
    const caption = made("p", { className: "caption" }, made("span", { className: "soft" }, `seed ${seed}`));
    return made("div", { className: "tile" }, made("div", { className: "picture square withheld" }, text), caption);
  }

  #compare(avatar) {
    $("compare-photo").src = this.photo.url;
    $("compare-avatar").src = avatar.url;
    $("compare-avatar").alt = avatar.title;
    $("compare-avatar").classList.toggle("checker", avatar.transparent);
    $("compare-caption").textContent = `${avatar.title} · ${likenessInWords(avatar.likeness)} · seed ${avatar.seed}`;
    $("compare").showModal();
  }

  #summarise({ runtime, startup_time: startup, stages }, images, withheld) {
    const waited = startup >= 0.1 ? `, ${seconds(startup)} of it for the model to start` : "";
    $("summary-text").textContent = `${count(images, "avatar", "avatars")} in ${seconds(runtime)}${waited}${withheldInWords(withheld)}.`;
    const known = Object.entries(stages).filter(([name]) => name in STAGES);
    $("stages").replaceChildren(...known.map(([name, time]) => {
      const part = made("i", { className: colourOf(name) });
      part.style.flexGrow = time;
      return part;
    }));
    $("stage-list").replaceChildren(...known.map(([name, time]) =>
      made("div", {}, made("dt", {}, made("i", { className: colourOf(name) }), ` ${STAGES[name]}`), made("dd", {}, `${time.toFixed(2)} s`))));
    $("download-all").hidden = this.files.length < 2;
    $("download-receipts").hidden = !this.receipts.some(Boolean);
    $("summary").hidden = false;
  }

  /** For `face-avatar replay receipts.json PHOTO... --image 0`. */
  #downloadReceipts() {
    const text = JSON.stringify({ output: { receipts: this.receipts } }, null, 2);
    const file = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    made("a", { href: file, download: "receipts.json" }).click();
    setTimeout(() => URL.revokeObjectURL(file), 60_000);
  }

  /** One archive; where the pictures lie on a host that does not give them to scripts, one download each. */
  async #downloadAll() {
    try {
      const files = await Promise.all(this.files.map(async ({ url, name }) =>
        [name, new Uint8Array(await (await this.download(url)).arrayBuffer())]));
      const archive = URL.createObjectURL(zipOf(files));
      made("a", { href: archive, download: "avatars.zip" }).click();
      setTimeout(() => URL.revokeObjectURL(archive), 60_000);
    } catch {
      for (const { url, name } of this.files) made("a", { href: url, download: name, target: "_blank", rel: "noopener" }).click();
    }
  }
}

export function announce(text) {
  $("announce").textContent = text;
}

function likenessInWords(cosine) {
  return cosine === null ? "No face seen" : `Likeness ${cosine.toFixed(2)}`;
}

function triesInWords({ tries, unlike }) {
  const best = tries > 1 ? `Best of ${tries}` : "";
  if (unlike) return best ? `${best}, still less like than asked.` : "Less like than asked.";
  return best && `${best}.`;
}

function withheldInWords(images) {
  return images ? `; ${count(images, "was", "were")} withheld` : "";
}

function colourOf(stage) {
  return `s${Object.keys(STAGES).indexOf(stage)}`;
}

function waitingTile() {
  return made("div", { className: "tile waiting" }, made("div", { className: "picture square" }));
}

/** What the avatar looks like so far; the bar says how far it is. The page's policy lets it show no data URLs. */
function showPreview(tile, url) {
  if (tile.preview === url) return;
  tile.preview = url;
  const picture = tile.firstChild;
  if (!picture.firstChild) picture.append(made("img", { className: "preview", alt: "" }));
  const [head, data] = url.split(",");
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  URL.revokeObjectURL(picture.firstChild.src);
  picture.firstChild.src = URL.createObjectURL(new Blob([bytes], { type: head.slice("data:".length, head.indexOf(";")) }));
}

function made(kind, properties, ...children) {
  const element = Object.assign(document.createElement(kind), properties);
  element.append(...children);
  return element;
}
