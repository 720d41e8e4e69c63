// node --test examples/javascript        reads the golden vectors that Python reads, too.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { decodePacked } from "./packed.mjs";

const vectors = JSON.parse(readFileSync(new URL("../../docs/packed.json", import.meta.url), "utf8"));

function bytesOf(vector) {
  return Uint8Array.from(Buffer.from(vector.hex.join(""), "hex"));
}

for (const vector of vectors) {
  test(`reads ${vector.name}`, () => {
    assert.deepEqual(decodePacked(bytesOf(vector)), vector.frames);
  });

  test(`reads ${vector.name} from the middle of a buffer`, () => {
    const padded = new Uint8Array([9, 9, 9, ...bytesOf(vector), 9]);
    assert.deepEqual(decodePacked(padded.subarray(3, padded.length - 1)), vector.frames);
  });

  test(`refuses every beginning of ${vector.name}, and one byte more`, () => {
    const bytes = bytesOf(vector);
    for (let length = 0; length < bytes.length; length++) {
      assert.throws(() => decodePacked(bytes.subarray(0, length)), RangeError);
    }
    assert.throws(() => decodePacked(new Uint8Array([...bytes, 0])), RangeError);
  });
}

test("refuses another version", () => {
  const bytes = bytesOf(vectors[0]);
  bytes[0] = 2;
  assert.throws(() => decodePacked(bytes), /expected version 1, got 2/);
});

test("there is a vector of every task", () => {
  const tasks = new Set(vectors.flatMap((vector) => vector.frames.map((frame) => frame.task)));
  assert.deepEqual([...tasks].sort(), ["classify", "detect", "pose", "segment"]);
});
