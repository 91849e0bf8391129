// Embeds texts through the official Node client and prints the vectors as JSON.
// Arguments: the folder with node_modules, the address, the key, the request as JSON.
import { createRequire } from "node:module";

const [folder, baseURL, apiKey, request] = process.argv.slice(2);
const { default: OpenAI } = createRequire(`${folder}/`)("openai");
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });

const answers = { vectors: [], model: null, usage: null, error: null };
try {
  const { data, model, usage } = await client.embeddings.create(JSON.parse(request));
  answers.vectors = data.map(({ embedding }) => Array.from(embedding));
  Object.assign(answers, { model, usage });
} catch (error) {
  const { status, code, param } = error;
  answers.error = { name: error.constructor.name, status, code, param };
}
console.log(JSON.stringify(answers));
