// Asks one question through the official Node client and prints the answer as JSON.
// Arguments: the folder with node_modules, the address, the key, the request as JSON.
import { createRequire } from "node:module";

const [folder, baseURL, apiKey, request] = process.argv.slice(2);
const { default: OpenAI } = createRequire(`${folder}/`)("openai");
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });

const answers = {
  models: [], pieces: [], tokens: [], text: null, finish: null, usage: null, error: null,
};
const hear = (choice) => {
  for (const { token, top_logprobs } of choice?.logprobs?.content ?? []) {
    answers.tokens.push([token, top_logprobs.length]);
  }
};
try {
  for await (const model of client.models.list()) answers.models.push(model.id);
  const asked = JSON.parse(request);
  if (asked.stream) {
    const stream = await client.chat.completions.create(asked);
    for await (const piece of stream) {
      const [choice] = piece.choices;
      hear(choice);
      if (choice?.delta.content) answers.pieces.push(choice.delta.content);
      answers.finish ??= choice?.finish_reason ?? null;
      answers.usage ??= piece.usage ?? null;
    }
    answers.text = answers.pieces.join("");
  } else {
    const whole = await client.chat.completions.create(asked);
    [{ message: { content: answers.text }, finish_reason: answers.finish }] = whole.choices;
    hear(whole.choices[0]);
    answers.usage = whole.usage;
  }
} catch (error) {
  answers.error = { name: error.constructor.name, status: error.status, code: error.code };
}
console.log(JSON.stringify(answers));
