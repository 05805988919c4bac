// Have an adapter made, with nothing but openai (to upload) and @langchain/langgraph-sdk (to talk).
//
//     npm install --prefix examples/clients
//     export OPENAI_BASE_URL=http://127.0.0.1:8321/v1 OPENAI_API_KEY=mo-...
//     node examples/clients/adapter.mjs "Train a classifier that predicts intent from message" tickets.csv

import { createReadStream } from "node:fs";
import { Client } from "@langchain/langgraph-sdk";
import OpenAI from "openai";

const [wish, path] = process.argv.slice(2);
const openai = new OpenAI();
const client = new Client({ apiUrl: openai.baseURL.replace(/\/v1\/?$/, ""), apiKey: openai.apiKey });

const file = await openai.files.create({ file: createReadStream(path), purpose: "fine-tune" });
const { thread_id: thread } = await client.threads.create();
let turn = { input: { messages: [{ role: "user", content: wish }], files: { train: file.id } } };
while (turn) {
  for await (const part of client.runs.stream(thread, "conversation", { streamResumable: true, ...turn })) {
    if (part.event === "custom") console.log(part.data.kind, JSON.stringify(part.data.body));
  }
  turn = undefined;
  for (const { id, value: asked } of (await client.threads.getState(thread)).interrupts) {
    if (asked.type !== "approval") throw new Error(`It asks: ${JSON.stringify(asked.questions)}`);
    console.log(asked.action_requests[0].description);
    turn = { command: { resume: { [id]: { version: asked.version, decisions: [{ type: "approve" }] } } } };
  }
}
console.log("values:", JSON.stringify((await client.threads.get(thread)).values));
