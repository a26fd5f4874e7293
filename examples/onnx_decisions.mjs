// Decide images with an exported run in JavaScript (Node.js):
//
// npm install --ignore-scripts onnxruntime-node sharp
// levelhead export runs/photos-1 model.onnx
// node examples/onnx_decisions.mjs model.onnx photo.jpg another.png
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

// Modules of the folder that this is started in.
const require = createRequire(`${process.cwd()}/`);
const ort = require("onnxruntime-node");
const sharp = require("sharp");

const [file, ...images] = process.argv.slice(2);
const session = await ort.InferenceSession.create(file, { logSeverityLevel: 3 });
const about = metadata(readFileSync(file));
const words = { set: "one of a set", ask: "ask a person", none: "none of mine" };

for (const path of images) {
  const { data, info } = await sharp(path)
    .rotate() // upright, as EXIF says
    .flatten({ background: "white" })
    .toColourspace("srgb")
    .removeAlpha()
    .raw()
    .toBuffer({ resolveWithObject: true });
  const rgb = info.channels === 3 ? data : Buffer.from([...data].flatMap((v) => [v, v, v]));
  const image = new ort.Tensor("uint8", rgb, [1, info.height, info.width, 3]);
  const answer = await session.run({ image });
  const kind = about.kinds[Number(answer.decision.data[0])];
  const decision = words[kind] ?? about.class_names[Number(answer.class.data[0])];
  const inside = about.class_names.filter((_, k) => answer.set.data[k]);
  console.log(`${path}  ${decision}  ${answer.confidence.data[0].toFixed(3)}  {${inside.join(", ")}}`);
}

// The metadata of an ONNX file: protobuf field 14 of the model, pairs of key (1) and value (2).
function metadata(bytes) {
  for (const [field, value] of fields(bytes)) {
    if (field !== 14) continue;
    const pair = Object.fromEntries(fields(value));
    if (new TextDecoder().decode(pair[1]) === "levelhead") {
      return JSON.parse(new TextDecoder().decode(pair[2]));
    }
  }
  throw new Error(`${file}: not a file that levelhead export wrote`);
}

function* fields(bytes) {
  let at = 0;
  const number = () => {
    let value = 0, scale = 1, byte;
    do {
      byte = bytes[at++];
      value += (byte & 127) * scale;
      scale *= 128;
    } while (byte & 128);
    return value;
  };
  while (at < bytes.length) {
    const tag = number();
    const [field, wire] = [Math.floor(tag / 8), tag % 8];
    if (wire === 2) {
      const length = number();
      yield [field, bytes.subarray(at, at + length)];
      at += length;
    } else if (wire === 0) yield [field, number()];
    else at += wire === 1 ? 8 : 4;
  }
}
