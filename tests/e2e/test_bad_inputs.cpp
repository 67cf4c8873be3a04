// Bad inputs to the built program: one line that names file, key, what was found and what was expected, and an exit
// code other than 0, alone and on every rank of a job.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/safetensors.h"
#include "core/tensor_source.h"
#include "tests/support/program.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_job.h"

namespace matvlm::testing {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

// A tensor on its way from one file to another.
struct EditedTensor {
  TensorSpec spec;
  std::vector<float> values;
};

class BadInputs : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    make_tiny_job(dir_->path());
  }
  static void TearDownTestSuite() { delete dir_; }

  static std::string file(const std::string& name) { return dir_->file(name); }
  static void write(const std::string& name, std::string_view text) { write_file_atomic(file(name), text); }
  static std::string read(const std::string& name) { return read_file(file(name)); }
  // A copy of the teacher's folder that a test may break.
  static std::string teacher_copy(const std::string& name) {
    fs::copy(file("teacher"), file(name), fs::copy_options::recursive);
    return name;
  }
  static void edit_weights(const std::string& folder, const std::function<void(std::vector<EditedTensor>&)>& edit) {
    std::vector<EditedTensor> tensors;
    {
      const TensorSource source = TensorSource::open(file(folder));
      for (const std::string& name : source.names()) {
        tensors.push_back({{name, DType::f32, source.info(name).shape}, source.read_floats(name)});
      }
    }
    edit(tensors);
    std::vector<TensorSpec> specs;
    for (const EditedTensor& t : tensors) specs.push_back(t.spec);
    SafetensorsWriter writer(file(folder + "/model.safetensors"), specs);
    for (const TensorSpec& spec : writer.order()) {
      for (const EditedTensor& t : tensors) {
        if (t.spec.name != spec.name) continue;
        if (spec.dtype == DType::i64) {
          const std::vector<int64_t> zeros(t.values.size());
          writer.append_values(spec.name, std::span<const int64_t>(zeros));
        } else {
          writer.append_floats(spec.name, t.values);
        }
      }
    }
    writer.commit();
  }
  static EditedTensor& tensor(std::vector<EditedTensor>& tensors, const std::string& name) {
    for (EditedTensor& t : tensors) {
      if (t.spec.name == name) return t;
    }
    fail("no tensor ", name);
  }

  static Words distill(const Words& sets) {
    Words words = {"distill", "distill.yaml", "--set", "run.dir=bad"};
    for (const std::string& set : sets) words.insert(words.end(), {"--set", set});
    return words;
  }

  // The program fails with this message as its only one. What follows "..." at the end are a library's own words.
  // `ranks` 0: alone.
  static void expect_failure(const Words& words, const std::string& message, int ranks = 0) {
    const ProgramResult result = run_program(dir_->path(), words, ranks);
    EXPECT_EQ(result.code, 1) << result.err;
    const Words errors = result.logged("error");
    ASSERT_EQ(errors.size(), 1U) << result.err;
    if (message.ends_with("...")) {
      EXPECT_TRUE(errors[0].starts_with(message.substr(0, message.size() - 3))) << errors[0];
    } else {
      EXPECT_EQ(errors[0], message);
    }
    // No chatter of libraries, and no exception that nobody caught.
    for (const char* noise : {"HDF5-DIAG", "LOG ERROR", "terminate called", "internal failure"}) {
      EXPECT_EQ(result.err.find(noise), std::string::npos) << result.err;
    }
  }

  static inline TempDir* dir_ = nullptr;
};

TEST_F(BadInputs, Configs) {
  const std::string good = read("distill.yaml");
  write("unknown.yaml", good + "optimiser: {lr: 1}\n");
  expect_failure({"distill", "unknown.yaml"},
                 "unknown.yaml:10: key 'optimiser': found an unknown key, expected a known one; the nearest is "
                 "'optimizer'");
  write("mistyped.yaml", "run: {dir: bad}\nteacher: {path: teacher}\nbatch:\n  size: eight\n");
  expect_failure({"distill", "mistyped.yaml"},
                 "mistyped.yaml:4: key 'batch.size': found 'eight', expected a whole number of at least 1", 2);
  write("broken.yaml", "run: {dir: bad\nteacher: [\n");
  expect_failure({"distill", "broken.yaml"}, "broken.yaml:2: found invalid YAML (...");
  write("empty.yaml", "");
  expect_failure({"distill", "empty.yaml"}, "empty.yaml:1: found nothing, expected sections of 'key: value' lines");
  expect_failure({"distill", "teach.yaml"},
                 "teach.yaml: found the config of a teach run, expected one of a distill run");
  expect_failure({"distill", "nowhere.yaml"}, "nowhere.yaml: cannot open: No such file or directory", 2);
  expect_failure({"resume", "nowhere"}, "nowhere/config.yaml: cannot open: No such file or directory", 2);
  EXPECT_FALSE(fs::exists(file("bad")));
}

TEST_F(BadInputs, Sets) {
  expect_failure(distill({"nonsense"}), "--set nonsense: found no '=', expected KEY=VALUE such as optimizer.lr=1e-4");
  expect_failure(distill({"=3"}), "--set =3: found no key, expected KEY=VALUE such as optimizer.lr=1e-4");
  expect_failure(distill({"optimizer=3"}),
                 "--set optimizer=3: key 'optimizer': found a section, expected one of its keys");
  expect_failure(distill({"optimizer.lrr=3"}),
                 "--set optimizer.lrr=3: key 'optimizer.lrr': found an unknown key, expected a known one; the nearest "
                 "is 'optimizer.lr'");
  expect_failure(distill({"optimizer.lr=fast"}),
                 "--set optimizer.lr=fast: key 'optimizer.lr': found 'fast', expected a number above 0", 2);
  expect_failure(distill({"student.ssm_layers=[0, 9]", "student.ssm_fraction=0"}),
                 "key 'student.ssm_layers': found layer 9, expected layers below the model's 4");
  expect_failure(distill({"precision=bf16"}),
                 "--set precision=bf16: key 'precision': found bf16 with device cpu, expected f32 there");
  expect_failure(distill({"student.trainable=[nothing.*]"}),
                 "student.trainable: found 'nothing.*', which matches no tensor of the model");
}

TEST_F(BadInputs, MissingFiles) {
  expect_failure(distill({"teacher.path=nowhere"}), "nowhere/config.json: cannot open: No such file or directory", 2);
  expect_failure(distill({"data.train=nowhere.h5"}), "nowhere.h5: cannot open: No such file or directory", 2);
  expect_failure(distill({"data.heldout=nowhere.h5"}), "nowhere.h5: cannot open: No such file or directory");
  expect_failure(distill({"student.init_from=nowhere"}), "nowhere: cannot open: No such file or directory");
  expect_failure({"teach", "teach.yaml", "--set", "run.dir=bad", "--set", "teach.tokenizer=nowhere.json"},
                 "nowhere.json: cannot open: No such file or directory", 2);
  fs::remove(file(teacher_copy("no_tokenizer") + "/tokenizer.json"));
  expect_failure(distill({"teacher.path=no_tokenizer"}),
                 "no_tokenizer/tokenizer.json: cannot open: No such file or directory");
  fs::remove(file(teacher_copy("no_weights") + "/model.safetensors"));
  expect_failure(distill({"teacher.path=no_weights"}),
                 "no_weights: found neither model.safetensors nor model.safetensors.index.json, pytorch_model.bin, "
                 "pytorch_model.bin.index.json, the folders of a model's parts or a GGUF file, expected one of them",
                 2);
  expect_failure({"generate", "--model", "teacher", "--image", "nowhere.png", "--prompt", "x"},
                 "nowhere.png: cannot open: No such file or directory");
  expect_failure({"export", "nowhere", "--out", "x"}, "nowhere/config.yaml: cannot open: No such file or directory");
  expect_failure({"eval", "--model", "nowhere", "--data", "heldout.h5"},
                 "nowhere: found neither config.json (a model) nor config.yaml (a run)");
}

TEST_F(BadInputs, EmptyAndTruncatedModels) {
  const std::string weights = read("teacher/model.safetensors");
  teacher_copy("broken");
  const Words words = distill({"teacher.path=broken"});
  write("broken/model.safetensors", "");
  expect_failure(words, "broken/model.safetensors: found 0 bytes, expected a safetensors file of at least 8");
  write("broken/model.safetensors", weights.substr(0, 1000));
  expect_failure(
      words,
      "broken/model.safetensors: found a header of 12072 bytes, expected at most the 992 that follow in the file");
  write("broken/model.safetensors", weights.substr(0, weights.size() - 10));
  expect_failure(words, "broken/model.safetensors: found 277942 bytes of data, expected 277952 (the file is truncated)",
                 2);
  write("broken/model.safetensors", weights);
  for (const char* name : {"config.json", "tokenizer.json"}) {
    const std::string text = read(std::string("broken/") + name);
    write(std::string("broken/") + name, "");
    expect_failure(words, "broken/" + std::string(name) + ": found no text, expected JSON");
    write(std::string("broken/") + name, text.substr(0, text.size() / 2));
    expect_failure(words, "broken/" + std::string(name) + ": key '...", 2);
    write(std::string("broken/") + name, text);
  }
}

TEST_F(BadInputs, EmptyAndTruncatedPacks) {
  const std::string pack = read("train.h5");
  write("broken.h5", "");
  expect_failure(distill({"data.train=broken.h5"}), "broken.h5: found an empty file, expected an HDF5 file");
  write("broken.h5", pack.substr(0, pack.size() / 2));
  expect_failure(distill({"data.train=broken.h5"}), "broken.h5: found no whole HDF5 file: ...", 2);
  write("broken.h5", pack.substr(0, 100));
  expect_failure({"inspect", "broken.h5"}, "broken.h5: found no whole HDF5 file: ...");
  write("broken.h5", read("teacher/config.json"));
  expect_failure(distill({"data.train=broken.h5"}), "broken.h5: found no whole HDF5 file: ...");
}

TEST_F(BadInputs, WrongMissingAndExtraTensorsAreAllListed) {
  teacher_copy("tensors");
  edit_weights("tensors", [](std::vector<EditedTensor>& tensors) {
    EditedTensor& norm = tensor(tensors, "language_model.model.final_layernorm.weight");
    norm.spec.shape = {31};
    norm.values.resize(31);
    tensor(tensors, "language_model.lm_head.bias").spec.dtype = DType::i64;
    tensor(tensors, "language_model.model.layers.1.mlp.fc1.bias").spec.name = "language_model.model.layers.1.mlp.fc9";
    EditedTensor& head = tensor(tensors, "language_model.lm_head.weight");
    head.spec.shape = {head.spec.shape[1], head.spec.shape[0]};
  });
  const std::string message =
      "tensors: tensors do not fit the config; missing 'language_model.model.layers.1.mlp.fc1.bias' [48]; "
      "'language_model.model.final_layernorm.weight': found [31], expected [32]; 'language_model.lm_head.weight': "
      "found "
      "[32, 400], expected [400, 32]; 'language_model.lm_head.bias': found I64, expected F32, F16, BF16 or F64; "
      "unexpected 'language_model.model.layers.1.mlp.fc9'";
  expect_failure(distill({"teacher.path=tensors"}), message);
  expect_failure(distill({"teacher.path=tensors"}), message, 2);
  expect_failure({"check", "distill.yaml", "--set", "teacher.path=tensors"}, message);
  expect_failure({"generate", "--model", "tensors", "--prompt", "x"}, message);
  // A teacher is no start of a student: all mixers are missing.
  expect_failure(
      distill({"student.init_from=teacher", "student.ssm_layers=[3]", "student.ssm_fraction=0"}),
      "teacher: found other tensors than expected: missing 'language_model.model.layers.3.mamba.in_proj.weight' [100, "
      "32]; "
      "missing 'language_model.model.layers.3.mamba.conv1d.weight' [64, 1, 4]; missing "
      "'language_model.model.layers.3.mamba.conv1d.bias' [64]; missing "
      "'language_model.model.layers.3.mamba.A_log' [4]; missing 'language_model.model.layers.3.mamba.D' [4]; "
      "missing 'language_model.model.layers.3.mamba.dt_bias' [4]; missing "
      "'language_model.model.layers.3.mamba.norm.weight' [32]; missing "
      "'language_model.model.layers.3.mamba.out_proj.weight' [32, 32]");
}

TEST_F(BadInputs, Vocabularies) {
  const std::string outside = "large.h5: sample 0: found id 434 outside the vocabulary, expected 0..399";
  // A tokenizer of more tokens than the model has, and packs made with it.
  ASSERT_EQ(run_program(dir_->path(), {"data", "tokenizer", "--data", "data/train.json", "data/heldout.json", "--out",
                                       "large.json", "--vocab", "500"})
                .code,
            0);
  Words pack = tiny_pack_words("train");
  pack[7] = "large.json";
  pack[9] = "large.h5";
  ASSERT_EQ(run_program(dir_->path(), pack).code, 0);
  expect_failure(distill({"data.train=large.h5"}), "large.h5: attribute 'tokenizer_sha256': found ...", 2);
  expect_failure({"eval", "--model", "teacher", "--data", "large.h5"}, outside);
  teacher_copy("large");
  fs::copy_file(file("large.json"), file("large/tokenizer.json"), fs::copy_options::overwrite_existing);
  expect_failure(distill({"teacher.path=large", "data.train=large.h5"}), outside, 2);
  expect_failure({"generate", "--model", "large", "--prompt", "x"},
                 "large/tokenizer.json: found 439 tokens, the model's vocabulary has 400");
  // A pack for another number of positions a picture.
  pack = tiny_pack_words("train");
  pack[9] = "nine.h5";
  pack[13] = "9";
  ASSERT_EQ(run_program(dir_->path(), pack).code, 0);
  expect_failure(distill({"data.train=nine.h5"}), "nine.h5: attribute 'tokens_per_image': found 9, expected 4");
}

TEST_F(BadInputs, Samples) {
  const auto pack = [](const std::string& sample) {
    write("bad.json", "[" + sample + "]");
    return Words{"data",           "pack",  "--data", "bad.json",     "--images", "data/images",        "--tokenizer",
                 "tokenizer.json", "--out", "bad.h5", "--max-length", "128",      "--tokens-per-image", "4"};
  };
  const std::string picture = fs::directory_iterator(file("data/images"))->path().filename().string();
  const auto turns = [](const std::string& question) {
    return R"("conversations": [{"from": "human", "value": ")" + question + R"("}, {"from": "gpt", "value": "yes"}]})";
  };
  const auto with = [&](const std::string& image, const std::string& question) {
    return R"({"id": "a", "image": ")" + image + "\", " + turns(question);
  };
  const std::string head = "bad.json: sample 0 (id 'a'): ";
  expect_failure(pack(R"({"id": "a", )" + turns("<image>\\nWhat?")), head + "found <image>, but no key 'image'");
  expect_failure(pack(with(picture, "What?")),
                 head + "found the picture '" + picture + "', but no <image> in a question");
  expect_failure(pack(with(picture, "<image> and <image>?")), head + "found 2 <image> marks, expected one");
  expect_failure(pack(R"({"id": "a", "image": ["x.png", "y.png"], )" + turns("<image>?")),
                 head + "found 2 pictures in 'image', expected one path");
  write("outside.png", "x");
  for (const std::string& path : {std::string("../../outside.png"), file("outside.png"), std::string("a/../b.png")}) {
    expect_failure(pack(with(path, "<image>?")),
                   head + "found the picture path '" + path + "', expected one inside data/images");
  }
  fs::create_symlink(file("outside.png"), file("data/images/link.png"));
  expect_failure(pack(with("link.png", "<image>?")),
                 head + "found the picture path 'link.png', expected one inside data/images");
  fs::remove(file("data/images/link.png"));
  expect_failure(pack(with("none.png", "<image>?")), head + "found no picture 'data/images/none.png', expected a file");
  write("bad.json", "");
  Words words = pack("");
  expect_failure(words, "bad.json: found no samples, expected at least one");
  write("bad.json", read("data/train.json").substr(0, 500));
  expect_failure(words, "bad.json: byte 500: found the end of the file in element 2, expected more of it");
  write("bad.json", "");
  expect_failure(words, "bad.json: found the end of the file at the beginning, expected an array of samples");
  EXPECT_FALSE(fs::exists(file("bad.h5")));
}

TEST_F(BadInputs, Pictures) {
  const std::string source = std::string(MATVLM_SOURCE_DIR) + "/tests/golden/image/";
  const auto generate = [](const std::string& image) {
    return Words{"generate", "--model", "teacher", "--image", image, "--prompt", "What?", "--max-new-tokens", "2"};
  };
  write("good.jpg", read_file(source + "rgb.jpg"));
  ASSERT_EQ(run_program(dir_->path(), generate("good.jpg")).code, 0);
  for (const std::string& name : {std::string("rgb.png"), std::string("rgb.jpg")}) {
    const std::string bytes = read_file(source + name);
    write(name, bytes.substr(0, bytes.size() / 2));
    const std::string half = std::to_string(bytes.size() / 2);
    const std::string kind = name == "rgb.png" ? "PNG" : "JPEG";
    expect_failure(generate(name),
                   name + ": truncated " + kind + ": the " + half + " bytes end before the picture does");
    write(name, "");
    expect_failure(generate(name), name + ": the picture is empty (0 bytes); expected PNG, JPEG or WebP data");
  }
  write("text.png", "no picture at all");
  expect_failure(
      generate("text.png"),
      "text.png: unknown picture format, first bytes 6e 6f 20 70 69 63 74 75; expected PNG (89 50 4e 47 ...), JPEG "
      "(ff d8 ff) or WebP (RIFF....WEBP)");

  // In a pack: found when it is made, or, where that was switched off, by the one rank that needs the picture.
  fs::create_directory(file("broken_images"));
  fs::copy(file("data/images"), file("broken_images"));
  const std::string picture = Json::read_file(file("data/train.json")).at(int64_t{1}).at("image").as_string();
  const std::string bytes = read("broken_images/" + picture);
  write("broken_images/" + picture, bytes.substr(0, bytes.size() - 40));
  const std::string truncated = cat(": truncated PNG: the ", bytes.size() - 40, " bytes end before the picture does");
  Words pack = tiny_pack_words("train");
  pack[5] = "broken_images";
  pack[9] = "broken_images.h5";
  expect_failure(pack, "data/train.json: sample 1 (id 'train-1'): broken_images/" + picture + truncated);
  pack.emplace_back("--no-verify");
  ASSERT_EQ(run_program(dir_->path(), pack).code, 0);
  expect_failure(distill({"run.dir=one_rank", "data.train=broken_images.h5"}),
                 cat("broken_images.h5: picture '", picture, "'", truncated), 2);
}

TEST_F(BadInputs, PromptsThatAreTooLong) {
  std::string words;
  for (int i = 0; i < 2000; ++i) words += "x ";
  expect_failure({"generate", "--model", "teacher", "--prompt", words}, "--prompt: found ...");
}

TEST_F(BadInputs, SamplesWithoutAnAnswerAreCounted) {
  Words pack = tiny_pack_words("train");
  pack[9] = "short.h5";
  pack[11] = "44";
  const ProgramResult result = run_program(dir_->path(), pack);
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_NE(result.out.find("no answer left"), std::string::npos) << result.out;
  pack[11] = "3";
  expect_failure(pack,
                 "data/train.json: found no sample to learn from among 64, expected at least one; first: "
                 "data/train.json: sample 0 "
                 "(id 'train-0'): found no answer within max_length 3");
}

TEST_F(BadInputs, LossesThatAreNotFinite) {
  teacher_copy("nan");
  edit_weights("nan", [](std::vector<EditedTensor>& tensors) {
    tensor(tensors, "language_model.lm_head.weight").values[7] = std::numeric_limits<float>::quiet_NaN();
  });
  expect_failure(distill({"teacher.path=nan"}),
                 "nan: 'language_model.lm_head.weight': found nan at element 7, expected finite numbers", 2);
  // Weights that explode after a checkpoint.
  expect_failure(distill({"run.dir=exploding", "optimizer.lr=1e30", "schedule.warmup=0", "train.checkpoint_every=1",
                          "train.eval_every=0"}),
                 "update 2: the ...", 2);
  const ProgramResult inspected = run_program(dir_->path(), {"inspect", "exploding"});
  EXPECT_NE(inspected.out.find("run with 1 checkpoints"), std::string::npos) << inspected.out;
  EXPECT_EQ(inspected.out.find("damaged"), std::string::npos) << inspected.out;
}

TEST_F(BadInputs, ExportReplacesNoForeignFolder) {
  fs::create_directory(file("precious"));
  write("precious/letter.txt", "x");
  expect_failure({"export", "taught", "--out", "precious"},
                 "precious: found 'letter.txt' in it, expected nothing or an exported folder to replace");
  EXPECT_EQ(read("precious/letter.txt"), "x");
  expect_failure({"export", "taught", "--out", "tokenizer.json"},
                 "tokenizer.json: found a file, expected nothing or an exported folder");
  expect_failure({"export", "taught", "--out", "x", "--checkpoint", "77"}, "taught: no checkpoint of update 77");
  expect_failure({"export", "taught", "--out", "x", "--checkpoint", "last"},
                 "--checkpoint: found 'last', expected best, latest, start or the number of an update");
}

}  // namespace
}  // namespace matvlm::testing
