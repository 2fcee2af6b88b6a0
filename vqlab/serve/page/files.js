// Files that people choose, drop or photograph.

import { byId } from "./dom.js";

const SUFFIXES = /\.(png|jpe?g|bmp|tiff?|webp|ppm|pgm)$/i;

/** Call `add([{file, name}], skipped)` for every choice. Names of files in folders are paths. */
export function listen(add) {
  for (const [button, input] of [["choose-images", "files"], ["choose-folder", "folder"]]) {
    byId(button).addEventListener("click", () => byId(input).click());
    byId(input).addEventListener("change", () => { offer(fromList(byId(input).files), add); byId(input).value = ""; });
  }
  byId("capture").addEventListener("change", () => { offer(fromList(byId("capture").files), add); byId("capture").value = ""; });
  byId("use-camera").addEventListener("click", () => openCamera(add));
  const drop = byId("drop");
  let depth = 0;
  const over = (by) => { depth = Math.max(0, depth + by); drop.classList.toggle("over", depth > 0); };
  window.addEventListener("dragenter", (event) => { event.preventDefault(); over(1); });
  window.addEventListener("dragleave", () => over(-1));
  window.addEventListener("dragover", (event) => event.preventDefault());
  window.addEventListener("drop", async (event) => {
    event.preventDefault();
    depth = 0;
    over(0);
    offer(await dropped(event.dataTransfer), add);
  });
  window.addEventListener("paste", (event) => offer(fromList(event.clipboardData?.files ?? []), add));
}

function offer(files, add) {
  const images = files.filter(({ file }) => SUFFIXES.test(file.name) && !file.name.startsWith("."));
  if (files.length) add(images, files.length - images.length);
}

function fromList(list) {
  return [...list].map((file) => ({ file, name: file.webkitRelativePath || file.name }));
}

/** Return the files of a drop, those in folders included. */
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return fromList(transfer.files);
  const files = [];
  for (const entry of entries) await walk(entry, "", files);
  return files;
}

async function walk(entry, parent, files) {
  const name = `${parent}${entry.name}`;
  if (entry.isFile) {
    const file = await new Promise((resolve) => entry.file(resolve, () => resolve(null)));
    if (file) files.push({ file, name });
    return;
  }
  const reader = entry.createReader();
  for (;;) { // a reader returns its entries in parts
    const part = await new Promise((resolve) => reader.readEntries(resolve, () => resolve([])));
    if (!part.length) return;
    for (const inner of part) await walk(inner, `${name}/`, files);
  }
}

/** Show the camera in a dialog; without one (or without HTTPS) let the phone's own app take the picture. */
async function openCamera(add) {
  if (!navigator.mediaDevices?.getUserMedia) {
    byId("capture").click();
    return;
  }
  const [dialog, video, problem] = [byId("camera"), byId("video"), byId("camera-problem")];
  let stream = null;
  problem.hidden = true;
  byId("shoot").disabled = true;
  dialog.showModal();
  const close = () => dialog.close();
  const shoot = async () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    const name = `camera ${new Date().toISOString().replace(/[:.]/g, "-")}.png`;
    add([{ file: new File([blob], name, { type: "image/png" }), name }], 0);
  };
  byId("camera-close").onclick = close;
  byId("shoot").onclick = shoot;
  dialog.addEventListener("close", () => { stream?.getTracks().forEach((track) => track.stop()); video.srcObject = null; }, { once: true });
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1920 } } });
    if (!dialog.open) {
      stream.getTracks().forEach((track) => track.stop());
      return;
    }
    video.srcObject = stream;
    await video.play();
    byId("shoot").disabled = false;
  } catch (error) {
    problem.textContent = `The camera cannot be used (${error.name}); allow it for this page, or choose images.`;
    problem.hidden = false;
  }
}
