// More photos of the same person beside the first one: the service looks at each, and each can be taken away.

import { seenFile } from "/page/photo.js";
import { inWords } from "/page/words.js";

const MOST = 3; // beside the first

const $ = (id) => document.getElementById(id);

export class MorePhotos {
  /** `check(file, signal)` asks the service what a photo shows. `changed()` is called when there are others, or verdicts. */
  constructor({ check, changed }) {
    Object.assign(this, { check, changed });
    this.photos = []; // { file, url, accepted, said, checking }
    $("add").addEventListener("change", ({ target }) => {
      this.add([...target.files]);
      target.value = "";
    });
  }

  get files() {
    return this.photos.map((photo) => photo.file);
  }

  get accepted() {
    return this.photos.every((photo) => photo.accepted);
  }

  /** Photos beyond the most are left out, which is said. */
  add(files) {
    const room = MOST - this.photos.length;
    const added = files.slice(0, room).map((file) => ({ file, url: URL.createObjectURL(file), accepted: false, said: "" }));
    this.photos.push(...added);
    $("more-problem").textContent = files.length > room ? `At most ${MOST + 1} photos: the others were left out.` : "";
    added.forEach((photo) => this.#look(photo));
  }

  clear() {
    this.photos.forEach((photo) => forget(photo));
    this.photos = [];
    $("more-problem").textContent = "";
    this.#draw();
  }

  recheck() {
    this.photos.forEach((photo) => this.#look(photo));
  }

  /** They can be added where the first one is used. */
  offer(offered) {
    $("more-photos").hidden = !offered && !this.photos.length;
  }

  async #look(photo) {
    photo.checking?.abort();
    const { signal } = (photo.checking = new AbortController());
    Object.assign(photo, { accepted: false, said: "Looking for a face…" });
    this.#draw();
    try {
      const { file, seen } = await seenFile(this.check, photo.file, signal);
      const said = seen.accepted ? seen.warnings.map(({ message }) => message).join(" ") : seen.message;
      Object.assign(photo, { file, accepted: seen.accepted, said });
    } catch (error) {
      if (signal.aborted) return;
      photo.said = inWords(error);
    }
    if (this.photos.includes(photo)) this.#draw();
  }

  #remove(photo) {
    forget(photo);
    this.photos = this.photos.filter((other) => other !== photo);
    $("more-problem").textContent = "";
    this.#draw();
    $("add").focus();
  }

  #draw() {
    $("thumbs").replaceChildren(...this.photos.map((photo, index) => this.#thumb(photo, index + 2)));
    $("add-label").hidden = this.photos.length >= MOST;
    this.changed();
  }

  #thumb(photo, number) {
    const picture = Object.assign(document.createElement("img"), { src: photo.url, alt: `Photo ${number}` });
    const text = Object.assign(document.createElement("p"), { textContent: photo.said || "Face found." });
    text.className = photo.accepted ? `verdict ${photo.said ? "doubt" : "good"}` : "verdict bad";
    if (photo.said === "Looking for a face…") text.className = "verdict";
    const remove = Object.assign(document.createElement("button"), { type: "button", className: "quiet", textContent: "Remove" });
    remove.setAttribute("aria-label", `Remove photo ${number}`);
    remove.addEventListener("click", () => this.#remove(photo));
    const row = document.createElement("li");
    row.append(picture, text, remove);
    return row;
  }
}

function forget(photo) {
  photo.checking?.abort();
  URL.revokeObjectURL(photo.url);
}
