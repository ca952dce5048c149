// Answers oracle calls by ONNX Runtime: reads frames on standard input, writes frames on standard output.
//
//   node runner.js --model FILE [--threads 1] [--report]
//
// A frame is a header of 32 bytes and a body, all little-endian: u32 magic "THF1", u32 kind, u64 id, u64 bytes of the
// body, u32 crc32 of the body, u32 crc32 of the header's first 28 bytes.
//
//   kind 1  hello: no body; answered by a description with the same id
//   kind 2  description: u32 inputs, u32 outputs, then for each u32 bytes of the name, the name, u32 type, u32 rank,
//           u64 sizes (0: any)
//   kind 3  run: u32 tensors, then for each u32 type (1 float32, 2 float64), u32 rank, u64 sizes, numbers row by row
//   kind 4  answer: a body like that of a run
//   kind 5  failure: a text; only the call of its id has failed
//
// One call runs at a time, in the order of arrival; frames are read ahead, and answers wait for nobody. The program
// ends when its input does and all calls are answered. A broken frame header ends it with exit code 1, since the next
// frame cannot be found. --report tells on standard error what was done, as a line of JSON.
//
// onnxruntime-node is looked for as usual, and in the folders of NODE_PATH.
'use strict';

const fs = require('fs');
const zlib = require('zlib');

const magic = 0x31464854;
const headerBytes = 32;
const kinds = {hello: 1, description: 2, run: 3, answer: 4, failure: 5};
const numberTypes = {
  float32: {code: 1, bytes: 4, array: Float32Array},
  float64: {code: 2, bytes: 8, array: Float64Array},
};
const typeOfCode = {1: 'float32', 2: 'float64'};
// Far above any call, far below what would exhaust the memory.
const mostBodyBytes = 2 ** 31;

// --- bytes -----------------------------------------------------------------------------------------------------------

const crcTable = new Uint32Array(256).map((_, byte) => {
  for (let bit = 0; bit < 8; ++bit) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  return byte;
});

// Node 20.15 has it built in.
const crc32 =
  zlib.crc32 ||
  ((bytes, before = 0) => {
    let crc = before ^ 0xffffffff;
    for (let i = 0; i < bytes.length; ++i) crc = crcTable[(crc ^ bytes[i]) & 0xff] ^ (crc >>> 8);
    return (crc ^ 0xffffffff) >>> 0;
  });

class FrameError extends Error {}

// A buffer of so many bytes that begins 4 bytes after a multiple of 8: where a body does, the numbers of a tensor of
// even rank begin at a multiple of 8 and can be used where they are.
function bodyBuffer(bytes) {
  return Buffer.from(new ArrayBuffer(bytes + 4), 4, bytes);
}

function frame(kind, id, parts) {
  let crc = 0;
  let bytes = 0;
  for (const part of parts) {
    crc = crc32(part, crc);
    bytes += part.length;
  }
  const header = Buffer.alloc(headerBytes);
  header.writeUInt32LE(magic, 0);
  header.writeUInt32LE(kind, 4);
  header.writeBigUInt64LE(id, 8);
  header.writeBigUInt64LE(BigInt(bytes), 16);
  header.writeUInt32LE(crc, 24);
  header.writeUInt32LE(crc32(header.subarray(0, 28)), 28);
  return [header, ...parts];
}

function readHeader(bytes) {
  if (bytes.readUInt32LE(0) !== magic) throw new FrameError('a frame does not begin with THF1');
  if (bytes.readUInt32LE(28) !== crc32(bytes.subarray(0, 28))) throw new FrameError('the checksum of a frame header is wrong');
  const size = bytes.readBigUInt64LE(16);
  if (size > BigInt(mostBodyBytes)) throw new FrameError(`a frame has ${size} bytes, expected ${mostBodyBytes} at most`);
  return {kind: bytes.readUInt32LE(4), id: bytes.readBigUInt64LE(8), size: Number(size), crc: bytes.readUInt32LE(24)};
}

// Cuts a stream of chunks, however they fall, into frames.
class FrameReader {
  constructor(take) {
    this.take = take;
    this.header = Buffer.alloc(headerBytes);
    this.filled = 0;
    this.frame = null;
  }

  push(chunk) {
    let at = 0;
    for (;;) {
      const target = this.frame ? this.frame.body : this.header;
      const count = Math.min(target.length - this.filled, chunk.length - at);
      chunk.copy(target, this.filled, at, at + count);
      this.filled += count;
      at += count;
      if (this.filled < target.length) return;
      this.filled = 0;
      if (this.frame) {
        const whole = this.frame;
        this.frame = null;
        this.take(whole);
      } else {
        this.frame = readHeader(this.header);
        this.frame.body = bodyBuffer(this.frame.size);
      }
    }
  }

  get betweenFrames() {
    return this.frame === null && this.filled === 0;
  }
}

// --- bodies ----------------------------------------------------------------------------------------------------------

function readTensors(body, Tensor) {
  let at = 0;
  const take = (bytes, what) => {
    if (!(bytes <= body.length - at)) throw new Error(`a call's body ends within ${what}`);
    at += bytes;
    return at - bytes;
  };
  const count = body.readUInt32LE(take(4, 'its number of tensors'));
  const tensors = [];
  for (let i = 0; i < count; ++i) {
    const code = body.readUInt32LE(take(4, `the type of tensor ${i}`));
    const type = typeOfCode[code];
    if (type === undefined) throw new Error(`tensor ${i} has the type ${code}, expected 1 (float32) or 2 (float64)`);
    const rank = body.readUInt32LE(take(4, `the rank of tensor ${i}`));
    const sizesAt = take(8 * rank, `the shape of tensor ${i}`);
    const dims = [];
    for (let d = 0; d < rank; ++d) dims.push(Number(body.readBigUInt64LE(sizesAt + 8 * d)));
    const elements = dims.reduce((product, size) => product * size, 1);
    const {bytes, array} = numberTypes[type];
    const start = body.byteOffset + take(bytes * elements, `the numbers of tensor ${i}`);
    const numbers =
      start % bytes === 0
        ? new array(body.buffer, start, elements)
        : new array(body.buffer.slice(start, start + bytes * elements));
    tensors.push(new Tensor(type, numbers, dims));
  }
  if (at !== body.length) throw new Error(`a call's body has ${body.length - at} bytes more than its tensors`);
  return tensors;
}

function tensorParts(tensors) {
  const parts = [uint32s([tensors.length])];
  for (const {name, tensor} of tensors) {
    const type = numberTypes[tensor.type];
    if (type === undefined) throw new Error(`the output ${name} is ${tensor.type}, expected float32 or float64`);
    parts.push(uint32s([type.code, tensor.dims.length]), uint64s(tensor.dims));
    parts.push(Buffer.from(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength));
  }
  return parts;
}

function uint32s(values) {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, i) => bytes.writeUInt32LE(value, 4 * i));
  return bytes;
}

function uint64s(values) {
  const bytes = Buffer.alloc(8 * values.length);
  values.forEach((value, i) => bytes.writeBigUInt64LE(BigInt(value), 8 * i));
  return bytes;
}

function descriptionParts(session) {
  const parts = [uint32s([session.inputMetadata.length, session.outputMetadata.length])];
  for (const value of [...session.inputMetadata, ...session.outputMetadata]) {
    const type = value.isTensor ? numberTypes[value.type] : undefined;
    if (type === undefined) throw new Error(`the model's ${value.name} is no tensor of float32 or float64`);
    const name = Buffer.from(value.name, 'utf8');
    const sizes = value.shape.map(size => (typeof size === 'number' ? size : 0));
    parts.push(uint32s([name.length]), name, uint32s([type.code, sizes.length]), uint64s(sizes));
  }
  return parts;
}

// --- the program -----------------------------------------------------------------------------------------------------

function readOptions(words) {
  const options = {model: '', threads: 1, report: false};
  for (let i = 0; i < words.length; ++i) {
    if (words[i] === '--report') {
      options.report = true;
    } else if (words[i] === '--model' && words[i + 1]) {
      options.model = words[++i];
    } else if (words[i] === '--threads' && /^[1-9][0-9]{0,3}$/.test(words[i + 1] || '')) {
      options.threads = Number(words[++i]);
    } else {
      throw new Error(`cannot read ${words.slice(i).join(' ')}, expected --model FILE, --threads n or --report`);
    }
  }
  if (options.model === '') throw new Error('--model FILE is needed');
  return options;
}

// Writes in order, and waits for nobody: whoever reads may itself still be writing to us.
class Output {
  constructor(fail) {
    this.stream = process.stdout;
    this.waiting = 0;
    this.flushed = () => {};
    this.stream.on('error', error => {
      fail(new Error(`standard output cannot be written: ${error.message}`));
      this.waiting = 0;
      this.flushed();
    });
  }

  // All parts of a frame go out in one write.
  write(buffers) {
    this.stream.cork();
    for (const buffer of buffers) {
      ++this.waiting;
      this.stream.write(buffer, () => {
        if (--this.waiting === 0) this.flushed();
      });
    }
    this.stream.uncork();
  }

  async flush() {
    if (this.waiting > 0) await new Promise(resolve => (this.flushed = resolve));
  }
}

async function answer(frameIn, session, Tensor, counts) {
  const {kind, id, body, crc} = frameIn;
  try {
    if (crc32(body) !== crc) throw new Error("the checksum of a call's body is wrong");
    if (kind === kinds.hello) return frame(kinds.description, id, descriptionParts(session));
    if (kind !== kinds.run) throw new Error(`a frame has the kind ${kind}, expected 1 (hello) or 3 (run)`);
    const tensors = readTensors(body, Tensor);
    const names = session.inputNames;
    if (tensors.length !== names.length)
      throw new Error(`a call has ${tensors.length} tensors, expected ${names.length}: ${names.join(', ')}`);
    const feeds = {};
    names.forEach((name, i) => (feeds[name] = tensors[i]));
    const start = process.hrtime.bigint();
    const outputs = await session.run(feeds);
    counts.runNanoseconds += process.hrtime.bigint() - start;
    ++counts.calls;
    return frame(kinds.answer, id, tensorParts(session.outputNames.map(name => ({name, tensor: outputs[name]}))));
  } catch (error) {
    ++counts.failures;
    return frame(kinds.failure, id, [Buffer.from(error.message, 'utf8')]);
  }
}

async function main() {
  const options = readOptions(process.argv.slice(2));
  const queue = [];
  let wake = () => {};
  let ended = null;
  const end = fault => {
    ended = ended || {fault};
    wake();
  };
  const reader = new FrameReader(whole => {
    queue.push(whole);
    wake();
  });
  process.stdin.on('data', chunk => {
    try {
      if (!ended) reader.push(chunk);
    } catch (error) {
      end(error);
    }
  });
  process.stdin.on('error', end);
  process.stdin.on('end', () => end(reader.betweenFrames ? null : new FrameError('the input ends within a frame')));

  let ort = null;
  let session = null;
  let loadError = null;
  try {
    ort = require('onnxruntime-node');
    session = await ort.InferenceSession.create(options.model, {
      intraOpNumThreads: options.threads,
      interOpNumThreads: 1,
      executionMode: 'sequential',
    });
  } catch (error) {
    loadError = new Error(`${options.model} cannot be loaded: ${error.message.split('\n')[0]}`);
  }

  const output = new Output(end);
  const counts = {calls: 0, failures: 0, runNanoseconds: 0n};
  let firstCall = null;
  let lastAnswer = null;
  for (;;) {
    if (queue.length === 0) {
      if (ended) break;
      await new Promise(resolve => (wake = resolve));
      continue;
    }
    const whole = queue.shift();
    if (loadError) {
      // Whoever asks is told the reason before the program ends.
      output.write(frame(kinds.failure, whole.id, [Buffer.from(loadError.message, 'utf8')]));
      break;
    }
    if (whole.kind === kinds.run && firstCall === null) firstCall = process.hrtime.bigint();
    output.write(await answer(whole, session, ort.Tensor, counts));
    lastAnswer = process.hrtime.bigint();
  }
  await output.flush();
  if (options.report) {
    const seconds = nanoseconds => Number(nanoseconds) * 1e-9;
    const whole = firstCall === null ? 0 : seconds(lastAnswer - firstCall);
    process.stderr.write(
      JSON.stringify({
        calls: counts.calls,
        failures: counts.failures,
        seconds_in_run: seconds(counts.runNanoseconds),
        seconds: whole,
      }) + '\n',
    );
  }
  const fault = loadError || (ended && ended.fault);
  if (fault) throw fault;
}

main().then(
  () => process.exit(0),
  error => {
    process.stderr.write(`runner.js: ${error.message}\n`);
    process.exit(1);
  },
);
