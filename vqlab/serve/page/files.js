// Files that people choose, drop or photograph.

import { byId, showProblem } from "./dom.js";

const SUFFIXES = /\.(png|jpe?g|bmp|tiff?|webp|ppm|pgm)$/i;

const CAMERA_PROBLEMS = {
  NotAllowedError: "The camera is not allowed for this page; allow it in the browser's site settings, or choose images.",
  NotFoundError: "This device has no camera; choose images instead.",
  NotReadableError: "The camera is used by another program; close that program, or choose images.",
};

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
    const files = await dropped(event.dataTransfer);
    if (files?.length === 0) showProblem("The folder has no files.");
    else offer(files ?? [], add);
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

/** Return the files of a drop, those in folders included; null if it holds neither files nor folders. */
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return transfer.files.length ? fromList(transfer.files) : null;
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
  const [dialog, video, problem, status] = ["camera", "video", "camera-problem", "camera-status"].map(byId);
  let stream = null;
  let count = 0;
  problem.hidden = true;
  status.textContent = "";
  byId("shoot").disabled = true;
  dialog.showModal();
  byId("camera-close").onclick = () => dialog.close();
  byId("shoot").onclick = async () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    const name = `camera ${new Date().toISOString().replace(/[:.]/g, "-")}.png`;
    add([{ file: new File([blob], name, { type: "image/png" }), name }], 0);
    count += 1;
    status.textContent = `${count} ${count === 1 ? "photograph" : "photographs"} taken.`;
  };
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
    byId("shoot").focus();
  } catch (error) {
    problem.textContent = CAMERA_PROBLEMS[error.name] ?? `The camera cannot be used (${error.name}); choose images instead.`;
    problem.hidden = false;
  }
}
