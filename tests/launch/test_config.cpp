// Run configs: strictness and its one-line messages, overrides, round trip, differences, the reference file, the layers
// of a fraction.
#include "launch/config.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "core/dnn_graph.h"
#include "core/error.h"
#include "core/file.h"
#include "launch/attention_backend.h"
#include "launch/config_keys.h"
#include "tests/support/temp_dir.h"

namespace matvlm {
namespace {

const std::string kDistill = R"(run:
  dir: runs/x
teacher:
  path: cache/teacher
student:
  ssm_fraction: 0.5
schedule:
  warmup: 10
  decay: 10
  total: 100
data:
  train: train.h5
)";

const std::string kTeach = R"(run: {dir: runs/t}
teach:
  tokenizer: tokenizer.json
schedule: {kind: cosine, warmup: 10, total: 100}
data: {train: train.h5}
)";

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

std::string error_of(const std::string& text, const std::vector<std::string>& sets = {}) {
  return error_of([&] { parse_config(text, "c.yaml", sets); });
}

struct BadConfig {
  std::string text;
  std::string message;
};

TEST(Config, ReadsValuesAndDefaults) {
  const RunConfig config =
      parse_config(kDistill, "c.yaml",
                   {"optimizer.betas=[0.8, 0.9]", "student.trainable=[a.*, b]", "loss.logit=jsd", "precision=bf16"});
  EXPECT_EQ(config.kind, RunKind::distill);
  EXPECT_EQ(config.run.dir, "runs/x");
  EXPECT_EQ(config.student.ssm_fraction, 0.5);
  EXPECT_EQ(config.schedule.total, 100);
  EXPECT_EQ(config.optimizer.beta1, 0.8);
  EXPECT_EQ(config.optimizer.beta2, 0.9);
  EXPECT_EQ(config.student.trainable, (std::vector<std::string>{"a.*", "b"}));
  EXPECT_EQ(config.loss.logit, LogitLossKind::jsd);
  EXPECT_EQ(config.precision, DType::bf16);
  EXPECT_EQ(config.optimizer.lr, 2e-4);
  EXPECT_EQ(config.batch.size, 64);
  EXPECT_EQ(parse_config(kTeach, "t.yaml").kind, RunKind::teach);
}

TEST(Config, AttentionBackEndOfTheBuild) {
  const std::unique_ptr<Context> cpu = make_cpu_context();
  RunConfig config = parse_config(kDistill, "c.yaml", {"precision=bf16", "attention.backend=cudnn"});
  EXPECT_EQ(config.attention.backend, AttentionBackend::cudnn);
  EXPECT_EQ(error_of([&] { check_attention_backend(config); }),
            dnn_version() > 0 ? "no error"
                              : "key 'attention.backend': found cudnn, but this build has no CUDA and cuDNN, expected "
                                "native");
  EXPECT_EQ(error_of([&] { make_attention_backend(*cpu, config); }),
            dnn_version() > 0 ? "key 'attention.backend': found cudnn on the CPU, expected native there"
                              : "key 'attention.backend': found cudnn, but this build has no CUDA and cuDNN, expected "
                                "native");
  config.attention.backend = AttentionBackend::native;
  EXPECT_EQ(make_attention_backend(*cpu, config), nullptr);
}

TEST(Config, RefusesBadDocuments) {
  const std::vector<BadConfig> cases = {
      {"", "c.yaml:1: found nothing, expected sections of 'key: value' lines"},
      {"- 1\n", "c.yaml:1: found a list, expected sections of 'key: value' lines"},
      {"a: [1\n", "c.yaml:2: found invalid YAML (end of sequence flow not found), expected 'key: value' lines"},
      {"a: 1\n---\nb: 2\n", "c.yaml: found 2 YAML documents, expected one"},
      {"optimizer: 5\n", "c.yaml:1: key 'optimizer': found '5', expected a section of keys"},
      {"[a, b]: 5\n", "c.yaml:1: found a list as a key, expected a name"},
      {kDistill + "optimiser:\n  lr: 1\n",
       "c.yaml:13: key 'optimiser': found an unknown key, expected a known one; the nearest is 'optimizer'"},
      {kDistill + "optimizer:\n  learning_rate: 1\n  lr: 1\n",
       "c.yaml:14: key 'optimizer.learning_rate': found an unknown key, expected a known one; the nearest is "
       "'optimizer.lr'"},
      {kDistill + "train:\n  lr: 1\n",
       "c.yaml:14: key 'train.lr': found an unknown key, expected a known one; the nearest is 'optimizer.lr'"},
      {kDistill + "run:\n  dir: b\n", "c.yaml:13: key 'run': found a second time (first on line 1), expected once"},
      {kDistill + "optimizer:\n  lr: 1\n  lr: 2\n",
       "c.yaml:15: key 'optimizer.lr': found a second time (first on line 14), expected once"},
      {"run: &a {dir: *a}\n", "c.yaml:1: found nesting deeper than 32, expected less"},
  };
  for (const BadConfig& bad : cases) EXPECT_EQ(error_of(bad.text), bad.message) << bad.text;
}

TEST(Config, RefusesBadValues) {
  const std::vector<BadConfig> cases = {
      {"optimizer: {lr: fast}", "key 'optimizer.lr': found 'fast', expected a number above 0"},
      {"optimizer: {lr: \"1\"}", "key 'optimizer.lr': found '1', expected a number above 0"},
      {"optimizer: {lr: 0}", "key 'optimizer.lr': found '0', expected a number above 0"},
      {"optimizer: {lr: .nan}", "key 'optimizer.lr': found '.nan', expected a number above 0"},
      {"optimizer: {lr: nan}", "key 'optimizer.lr': found 'nan', expected a number above 0"},
      {"optimizer: {betas: [0.9]}",
       "key 'optimizer.betas': found a list, expected a list of two numbers from 0 to 0.999999"},
      {"optimizer: {betas: 0.9}",
       "key 'optimizer.betas': found '0.9', expected a list of two numbers from 0 to 0.999999"},
      {"loss: {temperature: -1}", "key 'loss.temperature': found '-1', expected a number above 0"},
      {"loss: {logit: kld}",
       "key 'loss.logit': found 'kld', expected none, kl, reverse_kl, jsd, argmax_ce or logit_l2"},
      {"batch: {size: 1.5}", "key 'batch.size': found '1.5', expected a whole number of at least 1"},
      {"batch: {size: 99999999999999999999}",
       "key 'batch.size': found '99999999999999999999', expected a whole number of at least 1"},
      {"batch: {size: [1]}", "key 'batch.size': found a list, expected a whole number of at least 1"},
      {"batch: {size: }", "key 'batch.size': found nothing, expected a whole number of at least 1"},
      {"batch: {size: 4, micro: 8}", "key 'batch.micro': found 8, expected at most batch.size = 4"},
      {"train: {eval_every: 5}", "key 'data.heldout': found nothing, expected a pack, since train.eval_every is 5"},
      {"device: gpu", "key 'device': found 'gpu', expected auto, cpu or cuda"},
      {"{device: cpu, precision: bf16}", "key 'precision': found bf16 with device cpu, expected f32 there"},
      {"attention: {backend: flash}", "key 'attention.backend': found 'flash', expected native or cudnn"},
      {"attention: {backend: cudnn}",
       "key 'attention.backend': found cudnn with precision f32, expected native, or precision bf16"},
      {"loss: {logit: none, layer: none}",
       "key 'loss.ce_weight': found every loss off or of weight 0, expected at least one above 0"},
  };
  for (const BadConfig& bad : cases) {
    const bool braces = bad.text[0] == '{';  // several keys of the top level
    std::string text = braces ? bad.text.substr(1, bad.text.size() - 2) : bad.text;
    if (braces) text.replace(text.find(", "), 2, "\n");
    const std::string message = error_of(kDistill + text + "\n");
    const size_t start = message.find("key '");
    ASSERT_NE(start, std::string::npos) << message;
    EXPECT_EQ(message.substr(start), bad.message);
    EXPECT_TRUE(message.starts_with("c.yaml")) << message;
  }
}

TEST(Config, RefusesBadStudentsAndSchedules) {
  const auto with = [](const std::string& set) { return error_of(kDistill, {set}); };
  EXPECT_EQ(with("student.ssm_fraction=0.3"),
            "--set student.ssm_fraction=0.3: key 'student.ssm_fraction': found 0.3, expected 0.125, 0.25 or 0.5 (or 0 "
            "with student.ssm_layers)");
  EXPECT_EQ(with("student.ssm_layers=[1]"),
            "c.yaml:6: key 'student.ssm_fraction': found 0.5 beside student.ssm_layers, expected one of the two");
  EXPECT_EQ(error_of(kDistill, {"student.ssm_fraction=0", "student.ssm_layers=[2, 2]"}),
            "--set student.ssm_layers=[2, 2]: key 'student.ssm_layers': found 2 after 2, expected rising numbers");
  EXPECT_EQ(with("schedule.warmup=95"),
            "c.yaml:10: key 'schedule.total': found 100, expected at least warmup + decay = 95 + 10");
}

TEST(Config, NamesEveryMissingRequiredKey) {
  int64_t required = 0;
  for (const ConfigKey& key : config_keys()) {
    if (!key.required || !key.in_distill) continue;
    ++required;
    const std::string name = key.path.substr(key.path.rfind('.') + 1);
    std::string text = kDistill;
    const size_t begin = text.find("  " + name + ":");
    ASSERT_NE(begin, std::string::npos) << key.path;
    text.erase(begin, text.find('\n', begin) + 1 - begin);
    EXPECT_TRUE(error_of(text).starts_with("c.yaml: key '" + key.path + "': found nothing, expected a"))
        << error_of(text);
  }
  EXPECT_EQ(required, 4);
  EXPECT_EQ(error_of(kDistill, {"run.dir="}),
            "--set run.dir=: key 'run.dir': found an empty text, expected a text (directory of the run: checkpoints, "
            "metrics.jsonl, config.yaml, log)");
}

// `precision` is older than `precision.frozen` and stays a key of its own, so that older configs are read as they were.
TEST(Config, FrozenPrecisionStandsBesidePrecision) {
  const RunConfig plain = parse_config(kDistill + "precision: bf16\n", "c.yaml");
  EXPECT_EQ(plain.frozen_precision, FrozenPrecision::compute);
  EXPECT_EQ(plain.precision, DType::bf16);
  const RunConfig fp8 = parse_config(kDistill + "precision: bf16\nprecision.frozen: fp8\n", "c.yaml");
  EXPECT_EQ(fp8.frozen_precision, FrozenPrecision::fp8);
  EXPECT_EQ(fp8.precision, DType::bf16);
  EXPECT_EQ(parse_config(kDistill, "c.yaml", {"precision.frozen=fp8"}).frozen_precision, FrozenPrecision::fp8);
  EXPECT_NE(config_yaml(fp8).find("\nprecision: bf16\nprecision.frozen: fp8\n"), std::string::npos) << config_yaml(fp8);
  EXPECT_EQ(parse_config(config_yaml(fp8), "again.yaml").frozen_precision, FrozenPrecision::fp8);
  EXPECT_EQ(error_of(kDistill, {"precision.frozen=fp4"}),
            "--set precision.frozen=fp4: key 'precision.frozen': found 'fp4', expected compute or fp8");
  EXPECT_EQ(error_of(kDistill + "precision: {frozen: fp8}\n"),
            "c.yaml:13: key 'precision': found a section, expected f32 or bf16");
  EXPECT_EQ(
      error_of(kTeach, {"precision.frozen=fp8"}),
      "--set precision.frozen=fp8: key 'precision.frozen': found a key of `matvlm distill`, expected only keys of "
      "`matvlm teach` beside a `teach` section");
  EXPECT_EQ(error_of([&] { check_resumable(plain, fp8, "RUN"); }),
            "RUN: cannot resume with another config: key 'precision.frozen': found fp8, expected compute");
}

TEST(Config, RefusesBadOverrides) {
  const auto with = [](const std::string& set) { return error_of(kDistill, {set}); };
  EXPECT_EQ(with("nonsense"), "--set nonsense: found no '=', expected KEY=VALUE such as optimizer.lr=1e-4");
  EXPECT_EQ(with("=3"), "--set =3: found no key, expected KEY=VALUE such as optimizer.lr=1e-4");
  EXPECT_EQ(with("optimizer=3"), "--set optimizer=3: key 'optimizer': found a section, expected one of its keys");
  EXPECT_EQ(with("optimizer.lt=3"),
            "--set optimizer.lt=3: key 'optimizer.lt': found an unknown key, expected a known one; the nearest is "
            "'optimizer.lr'");
  EXPECT_EQ(with("optimizer.lr=x"), "--set optimizer.lr=x: key 'optimizer.lr': found 'x', expected a number above 0");
  EXPECT_EQ(with("optimizer.lr="), "--set optimizer.lr=: key 'optimizer.lr': found '', expected a number above 0");
  EXPECT_TRUE(with("student.trainable=[a").starts_with("--set student.trainable=[a:1: found invalid YAML"));
}

TEST(Config, KeepsTheKindsOfRunsApart) {
  EXPECT_EQ(error_of(kTeach + "loss: {ce_weight: 1}\n"),
            "c.yaml:6: key 'loss.ce_weight': found a key of `matvlm distill`, expected only keys of `matvlm teach` "
            "beside a `teach` section");
  EXPECT_EQ(error_of(kTeach, {"teach.model.heads=3"}),
            "--set teach.model.heads=3: key 'teach.model.heads': found 3, expected a divisor of teach.model.hidden = "
            "128");
  EXPECT_EQ(error_of(kTeach, {"teach.model.rotary_fraction=0.1"}),
            "--set teach.model.rotary_fraction=0.1: key 'teach.model.rotary_fraction': found 0.1 (3 of 32 dimensions), "
            "expected an even number of dimensions");
}

TEST(Config, EffectiveConfigReadsBackTheSame) {
  const std::vector<std::string> sets = {"run.dir=a: b # \"c\" \\ d",  "run.name=123",
                                         "optimizer.lr=1.1e-7",        "student.trainable=[x.*, y]",
                                         "loss.temperature=3.3",       "data.heldout=true",
                                         "optimizer.betas=[0.1, 0.7]", "schedule.total=9007199254740993"};
  for (const RunConfig& config :
       {parse_config(kDistill, "c.yaml", {sets[1], sets[2], sets[3], sets[4], sets[5], sets[6], sets[7]}),
        parse_config("run: {dir: \"a: b # \\\"c\\\" \\\\ d\\n\"}\n" + kDistill.substr(kDistill.find("teacher")), "c"),
        parse_config(kTeach, "t.yaml", {"data.train=[a.h5, 'shards/b*.h5']", "data.heldout="})}) {
    const std::string text = config_yaml(config);
    const RunConfig again = parse_config(text, "again.yaml");
    EXPECT_EQ(config_yaml(again), text);
    EXPECT_TRUE(config_diff(config, again).empty());
    EXPECT_EQ(text.find('#') == std::string::npos, config.run.dir.find('#') == std::string::npos) << text;
  }
  EXPECT_EQ(parse_config(config_yaml(parse_config(kDistill, "c", {sets[7]})), "d").schedule.total, 9007199254740993);
  const std::vector<std::string> packs = {"a.h5", "shards/b*.h5"};
  EXPECT_EQ(parse_config(kDistill, "c", {"data.train=[a.h5, 'shards/b*.h5']"}).data.train.paths, packs);
  EXPECT_EQ(error_of(kDistill, {"data.train={a: b}"}),
            "--set data.train={a: b}: key 'data.train': found a section, expected a text or a list of texts");
}

TEST(Config, TableHasOneAlignedLinePerKey) {
  const RunConfig config = parse_config(kDistill, "c.yaml");
  const std::string table = config_table(config);
  size_t keys = 0;
  std::set<size_t> columns;
  for (size_t begin = 0; begin < table.size();) {
    const size_t end = table.find('\n', begin);
    const std::string line = table.substr(begin, end - begin);
    columns.insert(line.find_first_not_of(' ', line.find(' ')));
    begin = end + 1;
    ++keys;
  }
  size_t expected = 0;
  for (const ConfigKey& key : config_keys()) expected += key.in_distill ? 1 : 0;
  EXPECT_EQ(keys, expected);
  EXPECT_EQ(columns.size(), 1U) << table;
  EXPECT_NE(table.find("schedule.total"), std::string::npos);
}

TEST(Config, DiffListsKeysWithBothValues) {
  const RunConfig a = parse_config(kDistill, "c.yaml");
  const RunConfig b = parse_config(kDistill, "c.yaml", {"optimizer.lr=1e-3", "loss.logit=jsd"});
  const std::vector<ConfigDifference> differences = config_diff(a, b);
  ASSERT_EQ(differences.size(), 2U);
  EXPECT_EQ(differences[0].key, "loss.logit");
  EXPECT_EQ(differences[0].first, "kl");
  EXPECT_EQ(differences[0].second, "jsd");
  EXPECT_EQ(differences[1].key, "optimizer.lr");
  EXPECT_EQ(differences[1].first, "2e-04");
  EXPECT_EQ(differences[1].second, "0.001");
}

TEST(Config, ResumeNamesEveryKeyThatMustNotChange) {
  const RunConfig a = parse_config(kDistill, "c.yaml");
  const RunConfig b = parse_config(kDistill, "c.yaml", {"optimizer.lr=1e-3", "run.seed=4", "train.keep=9"});
  EXPECT_EQ(error_of([&] { check_resumable(a, b, "RUN"); }),
            "RUN: cannot resume with another config: key 'run.seed': found 4, expected 0; key 'optimizer.lr': found "
            "0.001, expected 2e-04");
  check_resumable(a, parse_config(kDistill, "c.yaml", {"train.keep=9", "batch.micro=2", "device=cpu"}), "RUN");
}

TEST(Config, SizesOfMemory) {
  const auto limit = [](const std::string& text) {
    return parse_config(kDistill, "c.yaml", {"run.memory_limit=" + text}).run.memory_limit.bytes;
  };
  EXPECT_EQ(limit("22GiB"), int64_t{22} << 30);
  EXPECT_EQ(limit("1536MiB"), int64_t{3} << 29);
  EXPECT_EQ(limit("14.5GiB"), int64_t{29} << 29);
  EXPECT_EQ(limit("0.3KiB"), 307);
  EXPECT_EQ(limit("1000"), 1000);
  const RunConfig config = parse_config(kDistill, "c.yaml", {"run.memory_limit=1536MiB"});
  EXPECT_NE(config_yaml(config).find("memory_limit: 1536MiB"), std::string::npos) << config_yaml(config);
  for (const char* bad : {"22GB", "-1", "GiB", "1.5", "1e3", "nan", "infGiB", "1.5.GiB", "9999999999TiB"}) {
    const std::string set = std::string("run.memory_limit=") + bad;
    EXPECT_NE(error_of([&] { parse_config(kDistill, "c.yaml", {set}); }).find("expected a size like 22GiB"),
              std::string::npos)
        << bad;
  }
}

TEST(Config, LayersThatRecompute) {
  using Kind = RecomputeLayers::Kind;
  const auto read = [](const std::string& value) {
    const RunConfig config =
        parse_config(kDistill, "c.yaml", {"run.memory_limit=1GiB", "train.recompute_layers=" + value});
    const RunConfig again = parse_config(config_yaml(config), "again.yaml");
    EXPECT_EQ(config_value(again, "train.recompute_layers"), value);
    check_resumable(parse_config(kDistill, "c.yaml"), config, "RUN");
    return again.train.recompute_layers;
  };
  EXPECT_EQ(parse_config(kDistill, "c.yaml").train.recompute_layers.kind, Kind::all);
  EXPECT_EQ(read("all").kind, Kind::all);
  EXPECT_EQ(read("auto").kind, Kind::automatic);
  EXPECT_EQ(read("0").kind, Kind::number);
  EXPECT_EQ(read("9").number, 9);
  const std::string key = "--set train.recompute_layers=";
  for (const char* bad : {"-1", "some", "1.5", "[1]"}) {
    EXPECT_EQ(error_of(kDistill, {std::string("train.recompute_layers=") + bad}),
              key + bad + ": key 'train.recompute_layers': found " +
                  (bad[0] == '[' ? std::string("a list") : std::string("'") + bad + "'") +
                  ", expected all, auto or a number of layers");
  }
  EXPECT_EQ(
      error_of(kDistill, {"train.recompute_layers=4", "train.recompute_every=2"}),
      key + "4: key 'train.recompute_layers': found it beside train.recompute_every = 2, expected one of the two");
  EXPECT_EQ(error_of(kDistill, {"train.recompute_layers=auto"}),
            key +
                "auto: key 'train.recompute_layers': found auto without run.memory_limit, expected a limit to keep "
                "within");
}

TEST(Config, ReferenceFileListsEveryKey) {
  const std::string path = std::string(MATVLM_SOURCE_DIR) + "/configs/reference.yaml";
  const std::string text = read_file(path);
  EXPECT_EQ(text, config_reference()) << "make it again: matvlm check --reference > configs/reference.yaml";
  // Every value in it is one that its key accepts.
  std::set<std::string> listed;
  const std::function<void(const YamlNode&, const std::string&)> visit = [&](const YamlNode& node,
                                                                             const std::string& prefix) {
    for (const auto& [name, value] : node.entries) {
      const std::string key_path = prefix.empty() ? name.text : prefix + "." + name.text;
      if (value.kind == YamlNode::Kind::map) {
        visit(value, key_path);
        continue;
      }
      listed.insert(key_path);
      for (const ConfigKey& key : config_keys()) {
        RunConfig config;
        if (key.path == key_path) {
          EXPECT_TRUE(key.read(value, config)) << key_path;
        }
      }
    }
  };
  visit(parse_yaml(text, path), "");
  std::set<std::string> declared;
  for (const ConfigKey& key : config_keys()) {
    EXPECT_FALSE(key.doc.empty()) << key.path;
    EXPECT_TRUE(declared.insert(key.path).second) << key.path << " declared twice";
  }
  EXPECT_EQ(listed, declared);
}

TEST(Config, FractionsGiveThePublishedLayers) {
  const auto layers = [](double fraction, int64_t n) {
    StudentSection student;
    student.ssm_fraction = fraction;
    return resolve_ssm_layers(student, n);
  };
  EXPECT_EQ(layers(0.125, 32), (std::vector<int64_t>{0, 6, 12, 18}));
  EXPECT_EQ(layers(0.25, 32), (std::vector<int64_t>{0, 4, 8, 12, 16, 20, 24, 28}));
  EXPECT_EQ(layers(0.5, 6), (std::vector<int64_t>{0, 2, 4}));
  EXPECT_EQ(layers(0.5, 1), (std::vector<int64_t>{0}));
  EXPECT_EQ(layers(0.125, 4), (std::vector<int64_t>{0}));
  StudentSection student;
  student.ssm_layers = {1, 7};
  EXPECT_EQ(resolve_ssm_layers(student, 8), (std::vector<int64_t>{1, 7}));
  EXPECT_EQ(error_of([&] { resolve_ssm_layers(student, 7); }),
            "key 'student.ssm_layers': found layer 7, expected layers below the model's 7");
}

TEST(Config, FilesOfTheTreeAreValid) {
  const std::string folder = std::string(MATVLM_SOURCE_DIR) + "/configs/";
  for (const char* name :
       {"demo", "teach-demo", "published-12.5", "published-25", "published-50", "smollm2-25", "synthetic-test"}) {
    const std::string path = folder + name + ".yaml";
    EXPECT_NO_THROW(load_config(path)) << error_of([&] { load_config(path); });
  }
}

TEST(Config, MissingFileIsOneLine) {
  const testing::TempDir dir;
  const std::string path = dir.file("no.yaml");
  EXPECT_TRUE(error_of([&] { load_config(path); }).starts_with(path + ": "));
}

}  // namespace
}  // namespace matvlm
