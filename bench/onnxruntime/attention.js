// Attention by ONNX Runtime, a JSON line for each case: name, N, threads, seconds (median), gflops, row_error,
// peak_bytes.
//
//   node attention.js --models FOLDER [--masks full,causal] [--tokens 1024,4096] [--threads 1,2] [--repetitions 3]
//
// The first case of a process tells its memory best: later ones find what the allocator has kept for them.
//
// onnxruntime-node is looked for as usual, and in the folders of NODE_PATH. A result that is wrong is not timed: its
// line has an "error", and the exit code is 1.
'use strict';

const fs = require('fs');
const path = require('path');
const ort = require('onnxruntime-node');

const heads = 8;
const headDim = 64;
const width = heads * headDim;
const largestError = 1e-5;

function readOptions(words) {
  const options = {models: '', masks: 'full,causal', tokens: '1024,4096', threads: '1,2', repetitions: '3'};
  for (let i = 0; i < words.length; i += 2) {
    const key = words[i].replace(/^--/, '');
    if (!(key in options) || words[i + 1] === undefined) throw new Error(`attention.js does not know ${words[i]}`);
    options[key] = words[i + 1];
  }
  const numbers = text => text.split(',').map(Number);
  return {
    models: options.models,
    masks: options.masks.split(','),
    tokens: numbers(options.tokens),
    threads: numbers(options.threads),
    repetitions: Number(options.repetitions),
  };
}

// Nearly normal numbers of mean 0 and variance 1 from a seed: sums of four uniform ones (xorshift32).
function seededRows(count, seed) {
  const values = new Float32Array(count);
  let state = (seed * 0x9e3779b9) >>> 0;
  const uniform = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 4294967296;
  };
  for (let i = 0; i < count; ++i) {
    values[i] = (uniform() + uniform() + uniform() + uniform() - 2) * Math.sqrt(3);
  }
  return values;
}

// Largest relative L2 error of 32 rows, first and last among them; JavaScript's numbers are float64.
function sampledRowError(causal, n, q, k, v, output) {
  let worst = 0;
  for (let sample = 0; sample < 32; ++sample) {
    const column = (sample % heads) * headDim;
    const query = Math.floor((sample * (n - 1)) / 31);
    const keys = causal ? query + 1 : n;
    const weights = new Float64Array(keys);
    let largest = -Infinity;
    for (let key = 0; key < keys; ++key) {
      let score = 0;
      for (let d = 0; d < headDim; ++d) score += q[query * width + column + d] * k[key * width + column + d];
      weights[key] = score / Math.sqrt(headDim);
      largest = Math.max(largest, weights[key]);
    }
    let sum = 0;
    const expected = new Float64Array(headDim);
    for (let key = 0; key < keys; ++key) {
      const weight = Math.exp(weights[key] - largest);
      sum += weight;
      for (let d = 0; d < headDim; ++d) expected[d] += weight * v[key * width + column + d];
    }
    let error = 0;
    let size = 0;
    for (let d = 0; d < headDim; ++d) {
      const value = expected[d] / sum;
      error += (output[query * width + column + d] - value) ** 2;
      size += value ** 2;
    }
    const relative = Math.sqrt(error / size);
    // Math.max keeps a NaN.
    worst = Math.max(worst, relative);
  }
  return worst;
}

function statusBytes(label) {
  try {
    return 1024 * Number(new RegExp(`${label}:\\s+(\\d+)`).exec(fs.readFileSync('/proc/self/status', 'utf8'))[1]);
  } catch {
    return 0;
  }
}

// Where the system does not let the peak be reset, it is that of the process so far.
function resetPeak() {
  try {
    fs.writeFileSync('/proc/self/clear_refs', '5');
  } catch {
    return;
  }
}

async function measure(session, mask, n, threads, repetitions) {
  const causal = mask === 'causal';
  const [q, k, v] = [1, 2, 3].map(seed => seededRows(n * width, seed));
  const rows = values => new ort.Tensor('float32', values, [1, n, width]);
  const feeds = {query: rows(q), key: rows(k), value: rows(v)};
  if (causal) {
    feeds.last_key = new ort.Tensor('int32', Int32Array.of(n - 1), [1]);
    feeds.total_keys = new ort.Tensor('int32', Int32Array.of(n), [1]);
  }
  resetPeak();
  const before = statusBytes('VmRSS');
  const checked = (await session.run(feeds, ['output'])).output.data;
  const outputBytes = 4 * n * width;
  const peakBytes = Math.max(statusBytes('VmHWM') - before - outputBytes, 0);
  const name = `OnnxRuntime/${mask}`;
  const rowError = sampledRowError(causal, n, q, k, v, checked);
  if (!(rowError < largestError)) return {name, N: n, threads, row_error: rowError, error: 'the result is wrong'};
  const seconds = [];
  for (let i = 0; i < repetitions; ++i) {
    const start = process.hrtime.bigint();
    await session.run(feeds, ['output']);
    seconds.push(Number(process.hrtime.bigint() - start) * 1e-9);
  }
  seconds.sort((a, b) => a - b);
  const half = seconds.length >> 1;
  const median = seconds.length % 2 === 1 ? seconds[half] : (seconds[half - 1] + seconds[half]) / 2;
  const flops = 4 * n * n * headDim * heads * (causal ? 0.5 : 1);
  return {
    name,
    N: n,
    threads,
    seconds: median,
    gflops: (flops / median) * 1e-9,
    row_error: rowError,
    peak_bytes: peakBytes,
    version: require('onnxruntime-node/package.json').version,
  };
}

async function main() {
  const options = readOptions(process.argv.slice(2));
  for (const threads of options.threads) {
    for (const mask of options.masks) {
      const session = await ort.InferenceSession.create(path.join(options.models, `${mask}.onnx`), {
        intraOpNumThreads: threads,
        interOpNumThreads: 1,
        executionMode: 'sequential',
      });
      for (const n of options.tokens) {
        const line = await measure(session, mask, n, threads, options.repetitions);
        if (line.error) process.exitCode = 1;
        console.log(JSON.stringify(line));
      }
      await session.release();
    }
  }
}

main().catch(error => {
  console.error(`attention.js: ${error.message}`);
  process.exitCode = 1;
});
