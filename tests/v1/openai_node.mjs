// OpenAI's Node client against one appliance. argv: folder of the client, base URL, good token, token without the scope.
// The client is as it comes; only names are answered as a name server would: the machine resolves no *.localhost.
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const dns = require("node:dns");
dns.lookup = (name, options, done) =>
  options.all ? done(null, [{ address: "127.0.0.1", family: 4 }]) : done(null, "127.0.0.1", 4);

const [folder, baseURL, token, reader] = process.argv.slice(2);
const { default: OpenAI } = await import(`${folder}/index.mjs`);
const client = new OpenAI({ baseURL, apiKey: token, maxRetries: 0 });
const messages = [{ role: "user", content: "Hello" }];
const said = {};

said.models = (await client.models.list()).data.map((model) => model.id);
said.whole = (await client.chat.completions.create({ model: "croft", messages })).choices[0].message.content;

said.streamed = "";
said.usage = null;
const stream = await client.chat.completions.create({ model: "croft", messages, stream: true, stream_options: { include_usage: true } });
for await (const chunk of stream) {
  said.streamed += chunk.choices[0]?.delta.content ?? "";
  said.usage = chunk.usage?.completion_tokens ?? said.usage;
}

const tools = [{ type: "function", function: { name: "read_file", parameters: { type: "object", properties: {} } } }];
const called = await client.chat.completions.create({ model: "croft", messages, tools, stream: true });
said.called = "";
for await (const chunk of called) said.called += chunk.choices[0]?.delta.tool_calls?.[0]?.function?.arguments ?? "";

const asked = await client.chat.completions.create({ model: "croft", messages, tools });
said.asked = [asked.choices[0].finish_reason, asked.choices[0].message.tool_calls.map((call) => call.function.arguments), asked.object];

said.vector = (await client.embeddings.create({ model: "croft", input: "abc", encoding_format: "float" })).data[0].embedding;

const failing = async (ask) => {
  try {
    await ask();
    return "nothing";
  } catch (error) {
    return `${error.constructor.name} ${error.status} ${error.code}`;
  }
};
const other = (apiKey) => new OpenAI({ baseURL, apiKey, maxRetries: 0 });
said.errors = [
  await failing(() => other("croft_api_wrong").models.list()),
  await failing(() => other(reader).models.list()),
  await failing(() => client.chat.completions.create({ model: "gpt-4o", messages })),
  await failing(() => client.chat.completions.create({ model: "croft", messages: "none" })),
  await failing(() => client.chat.completions.create({ model: "croft", messages })),  // the engine fails with 500
];

const stopped = await client.chat.completions.create({ model: "croft", messages, stream: true });
for await (const chunk of stopped) if (chunk.choices[0]?.delta.content) break;
stopped.controller.abort();

said.limited = "nothing";
for (let number = 0; number < 50 && said.limited === "nothing"; number++) said.limited = await failing(() => client.embeddings.create({ model: "croft", input: "x", encoding_format: "float" }));
console.log(JSON.stringify(said));
