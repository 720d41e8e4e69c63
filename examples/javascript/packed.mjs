// Frames of the topic `packed`, read into the documents of the topic `detections`.
//
// For browsers, Node.js and Node-RED: no package is needed. The layout stands in docs/protocol.md.

const TASKS = ["detect", "pose", "segment", "classify"];
const VERSION = 1;
const WIDE = 1;
const FRAMES_MAX = 16;
const NONE = 65535;

/**
 * Return the frames in a payload, oldest first.
 *
 * @param {Uint8Array|ArrayBuffer} payload What came over MQTT.
 * @returns {object[]} Documents as those of `detections`.
 * @throws {RangeError} It is no payload of this version.
 */
export function decodePacked(payload) {
  const bytes = payload instanceof Uint8Array ? payload : new Uint8Array(payload);
  const reader = new Reader(bytes);
  const head = readHead(reader);
  const frames = Array.from({ length: head.frames }, () => readFrame(reader, head));
  if (reader.at !== bytes.length) throw new RangeError(`packed: ${bytes.length - reader.at} bytes too many`);
  return frames;
}

/** Reads numbers, little endian; one that is not there is a RangeError of DataView's own. */
class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.at = 0;
  }

  u8() {
    return this.view.getUint8(this.at++);
  }

  u16() {
    this.at += 2;
    return this.view.getUint16(this.at - 2, true);
  }

  u32() {
    this.at += 4;
    return this.view.getUint32(this.at - 4, true);
  }

  u64() {
    this.at += 8;
    return Number(this.view.getBigUint64(this.at - 8, true));
  }

  text(length) {
    if (this.at + length > this.bytes.length) throw new RangeError("packed: a text ends too early");
    this.at += length;
    const text = this.bytes.subarray(this.at - length, this.at);
    return new TextDecoder("utf-8", { fatal: true }).decode(text);
  }

  column(number, read) {
    return Array.from({ length: number }, read);
  }

  scores(number) {
    return this.column(number, () => Math.round((this.u8() / 255) * 1e3) / 1e3);
  }

  sides(number) {
    return this.column(number, () => Math.round((this.u16() / 65535) * 1e4) / 1e4);
  }
}

function readHead(reader) {
  const [version, task, flags, frames] = reader.column(4, () => reader.u8());
  if (version !== VERSION || flags & ~WIDE || task >= TASKS.length || frames < 1 || frames > FRAMES_MAX) {
    throw new RangeError(`packed: expected version ${VERSION}, got ${version}`);
  }
  const keypoints = reader.u16();
  const labels = reader.u16();
  const began = reader.u64();
  const size = [reader.u16(), reader.u16()];
  const lengths = [reader.u8(), reader.u8()];
  reader.u16(); // Reserved.
  const [run, release] = lengths.map((length) => reader.text(length));
  const names = new Map(
    reader.column(labels, () => {
      const number = reader.u16();
      return [number, reader.text(reader.u16())];
    }),
  );
  const isWide = Boolean(flags & WIDE);
  return { task: TASKS[task], frames, keypoints, began, size, run, release, names, isWide };
}

function readFrame(reader, head) {
  const [seq, frame] = [reader.u32(), reader.u32()];
  const [offset, dnn, number, truncated] = reader.column(4, () => reader.u16());
  const document = {
    v: 1,
    at: new Date(head.began + offset).toISOString(),
    run: head.run,
    seq,
    frame,
    release: head.release,
    task: head.task,
    dnn_ms: dnn === NONE ? null : dnn / 10,
  };
  const found = readThings(reader, head, number);
  document[head.task === "classify" ? "classes" : "objects"] = found;
  if (truncated) document.truncated = truncated;
  return document;
}

function readThings(reader, head, number) {
  const classes = reader.column(number, () => (head.isWide ? reader.u16() : reader.u8()));
  const scores = reader.scores(number);
  const things = classes.map((number_, row) => {
    if (!head.names.has(number_)) throw new RangeError(`packed: class ${number_} has no name`);
    return { label: head.names.get(number_), class: number_, score: scores[row] };
  });
  if (head.task === "classify") return things;
  const sides = reader.column(4, () => reader.sides(number));
  things.forEach((thing, row) => (thing.box = sides.map((side) => side[row])));
  if (head.task === "pose") addKeypoints(reader, head.keypoints, things);
  if (head.task === "segment") addMasks(reader, head.size, things);
  return things;
}

function addKeypoints(reader, each, things) {
  const total = each * things.length;
  const [x, y, scores] = [reader.sides(total), reader.sides(total), reader.scores(total)];
  things.forEach((thing, row) => {
    thing.keypoints = Array.from({ length: each }, (_, point) => {
      const at = row * each + point;
      return [x[at], y[at], scores[at]];
    });
  });
}

function addMasks(reader, size, things) {
  const lengths = reader.column(things.length, () => reader.u16());
  things.forEach((thing, row) => (thing.mask = { size, counts: reader.text(lengths[row]) }));
}
