// The photo: chosen, dropped, pasted, from the camera or the sample; shown with the faces that the service found on it.

import { inWords } from "/page/words.js";

const SHRUNK_SIDE = 1536; // pixels; the service works with no more
const SHRUNK_QUALITY = 0.92;
const TOGETHER_BYTES = 40e6; // of several photos; the service takes a little more in one request
const UNREADABLE = ["too_large", "not_an_image", "too_many_pixels"]; // for the service; the browser may read it

const $ = (id) => document.getElementById(id);

export class PhotoPicker {
  /**
   * `check(file, signal)` asks the service what a photo shows. `changed()` is called when there is another photo or
   * verdict, `refused(error)` where the service did not look at it, `more(files)` with those that were chosen beside it,
   * or none. `sample()` brings the sample; `sampled()` is called where the photo is that.
   */
  constructor({ check, changed, refused, sample, sampled, more }) {
    Object.assign(this, { check, changed, refused, sample, sampled, more });
    this.file = null;
    this.accepted = false;
    this.url = "";
    this.checking = new AbortController();
    this.#wireFiles();
    this.#wireCamera();
  }

  get name() {
    return this.file?.name ?? "me.jpg";
  }

  async take(file, ...others) {
    this.file = file;
    this.#show();
    this.more(others);
    await this.recheck();
  }

  /** Ask what the photo shows. A file that only the browser can read is sent as a smaller JPEG. */
  async recheck() {
    if (!this.file) return;
    this.checking.abort();
    const { signal } = (this.checking = new AbortController());
    this.#say("Looking for a face…", "");
    this.#warn([]);
    this.#setAccepted(false);
    $("frame").classList.add("checking");
    try {
      const { file, seen } = await seenFile(this.check, this.file, signal);
      this.file = file;
      this.#drawFaces(seen);
      this.#setAccepted(seen.accepted);
    } catch (error) {
      if (signal.aborted) return;
      this.#say(inWords(error), "bad");
      this.refused(error);
    }
    $("frame").classList.remove("checking");
  }

  #show() {
    URL.revokeObjectURL(this.url);
    this.url = URL.createObjectURL(this.file);
    $("boxes").replaceChildren();
    $("preview").hidden = false;
    $("photo").hidden = false;
    $("photo").onerror = () => { $("photo").hidden = true; };
    $("photo").src = this.url;
    $("empty-photo").hidden = true;
    $("drop").classList.add("filled");
    $("choose-text").textContent = "Another photo";
    $("choose").setAttribute("aria-label", "Choose another photo");
    $("choose-label").classList.remove("primary");
  }

  #drawFaces(seen) {
    $("boxes").replaceChildren(...seen.faces.map((face, index) => boxOf(face.box, seen, index === seen.used)));
    if (seen.accepted) this.#say("Face found.", "good");
    else this.#say(seen.message, "bad");
    const unseen = seen.accepted && $("photo").hidden ? [{ message: "The service can read this photo; this browser cannot show it." }] : [];
    this.#warn([...seen.warnings, ...unseen]);
  }

  #setAccepted(accepted) {
    this.accepted = accepted;
    this.changed();
  }

  #say(text, kind) {
    $("verdict").hidden = false;
    $("verdict").className = `verdict ${kind}`;
    $("verdict").textContent = text;
  }

  /** What to know about a photo that is used, under the verdict. */
  #warn(warnings) {
    $("photo-warnings").replaceChildren(...warnings.map(({ message }) =>
      Object.assign(document.createElement("li"), { className: "verdict doubt", textContent: message })));
  }

  #wireFiles() {
    for (const id of ["choose", "capture"]) {
      $(id).addEventListener("change", ({ target }) => {
        if (target.files[0]) this.take(...target.files);
        target.value = "";
      });
    }
    $("sample").addEventListener("click", () => this.#takeSample());
    document.addEventListener("paste", (event) => {
      const { files } = event.clipboardData;
      if (files[0]) this.take(...files);
    });
    document.addEventListener("dragover", (event) => {
      if (!event.dataTransfer.types.includes("Files")) return; // text may be dragged into the prompt
      event.preventDefault();
      $("drop").classList.add("over");
    });
    document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
    document.addEventListener("drop", (event) => {
      $("drop").classList.remove("over");
      const { files } = event.dataTransfer;
      if (!files[0]) return;
      event.preventDefault();
      this.take(...files);
    });
  }

  async #takeSample() {
    const picture = await this.sample().catch(() => null);
    if (!picture) {
      this.#say("The sample could not be loaded.", "bad");
      return;
    }
    this.sampled();
    await this.take(new File([picture], "sample.png", { type: "image/png" }));
  }

  #wireCamera() {
    // Over plain HTTP from another machine there is no live picture; phones then take a photo with their own camera.
    const live = Boolean(navigator.mediaDevices?.getUserMedia);
    $("camera").hidden = !live;
    $("capture-label").hidden = live;
    $("camera").addEventListener("click", () => this.#openCamera());
    $("camera-close").addEventListener("click", () => $("camera-dialog").close());
    $("camera-dialog").addEventListener("close", () => {
      $("video").srcObject?.getTracks().forEach((track) => track.stop());
      $("video").srcObject = null;
    });
    $("shoot").addEventListener("click", async () => {
      const video = $("video");
      const file = await jpegOf(video, video.videoWidth, video.videoHeight, "camera.jpg");
      $("camera-dialog").close();
      if (file) await this.take(file);
    });
  }

  async #openCamera() {
    try {
      $("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user", width: 1280 } });
      $("camera-dialog").showModal();
    } catch {
      this.#say("The camera cannot be used. Choose a photo instead.", "bad");
    }
  }
}

/** What a photo shows, and the file that the service could read: where only the browser can, a smaller JPEG. */
export async function seenFile(check, file, signal) {
  try {
    return { file, seen: await check(file, signal) };
  } catch (error) {
    const unreadable = error.status === 413 || UNREADABLE.includes(error.data?.reason);
    const smaller = unreadable && (await shrunk(file));
    if (!smaller || signal.aborted) throw error;
    return { file: smaller, seen: await check(smaller, signal) };
  }
}

/** Photos as they fit into one request: smaller JPEGs where they are too large together. */
export async function fittingTogether(files) {
  const bytes = files.reduce((sum, file) => sum + file.size, 0);
  if (files.length === 1 || bytes <= TOGETHER_BYTES) return files;
  return Promise.all(files.map(async (file) => (await shrunk(file)) ?? file));
}

function boxOf([left, top, right, bottom], { width, height }, used) {
  const box = document.createElement("div");
  box.className = used ? "box used" : "box";
  box.style.left = `${(100 * left) / width}%`;
  box.style.top = `${(100 * top) / height}%`;
  box.style.width = `${(100 * (right - left)) / width}%`;
  box.style.height = `${(100 * (bottom - top)) / height}%`;
  return box;
}

/** A smaller JPEG of what the browser can read; null where it cannot either. */
async function shrunk(file) {
  const picture = await createImageBitmap(file).catch(() => null);
  if (!picture) return null;
  const scale = Math.min(1, SHRUNK_SIDE / Math.max(picture.width, picture.height));
  const name = file.name.replace(/\.\w+$/, "") + ".jpg";
  return jpegOf(picture, Math.round(picture.width * scale), Math.round(picture.height * scale), name);
}

async function jpegOf(picture, width, height, name) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").drawImage(picture, 0, 0, width, height);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", SHRUNK_QUALITY));
  return blob && new File([blob], name, { type: "image/jpeg" });
}
