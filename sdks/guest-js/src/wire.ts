/** The host of a component: the imports of its world. */

import clock from "realm:tenant/clock@0.1.0";
import config from "realm:tenant/config@0.1.0";
import log from "realm:tenant/log@0.1.0";
import model from "realm:tenant/model@0.1.0";
import random from "realm:tenant/random@0.1.0";
import reply from "realm:tenant/reply@0.1.0";
import store from "realm:tenant/store@0.1.0";

import { setHost } from "./host.ts";

setHost({
  listModels: () => model.listModels(),
  openModel: (name) => model.Model.open(name),
  writeText: (text) => reply.writeText(text),
  writeScored: (text, logprobs) => reply.writeScored(text, logprobs),
  writeJson: (json) => reply.writeJson(json),
  setting: (key) => config.get(key),
  tenant: () => config.tenant(),
  log: (level, message) => log.emit(level, message),
  storeGet: (key) => store.get(key),
  storeSet: (key, value) => store.set(key, value),
  storeDelete: (key) => store.delete(key),
  storeKeys: (prefix, after) => store.keys(prefix, after),
  now: () => clock.now(),
  elapsed: () => clock.elapsed(),
  randomBytes: (count) => random.bytes(count),
});
