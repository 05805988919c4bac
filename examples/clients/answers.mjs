// Ask a served model with nothing but the openai package.
//
//     npm install --prefix examples/clients
//     export OPENAI_BASE_URL=http://127.0.0.1:8321/v1 OPENAI_API_KEY=mo-...
//     node examples/clients/answers.mjs [MODEL]

import OpenAI from "openai";

const client = new OpenAI();
const models = [];
for await (const model of client.models.list()) models.push(model.id);
console.log("models:", models.join(", "));
const model = process.argv[2] ?? models[0];

let said = "";
const stream = await client.chat.completions.create({
  model,
  messages: [{ role: "user", content: "My parcel is broken" }],
  max_completion_tokens: 40,
  stream: true,
});
for await (const chunk of stream) said += chunk.choices[0].delta.content ?? "";
console.log("chat:", said);

const continued = await client.completions.create({ model, prompt: "The parcel", max_tokens: 8 });
console.log("completion:", continued.choices[0].text);

const first = await client.responses.create({ model, input: "My parcel is broken", max_output_tokens: 40 });
const second = await client.responses.create({
  model,
  input: "And my card too",
  previous_response_id: first.id,
  max_output_tokens: 40,
});
console.log("responses:", first.output_text, "/", second.output_text);
for (const response of [second, first]) await client.responses.delete(response.id);
