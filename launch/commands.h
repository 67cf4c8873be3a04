// The subcommands of the program: their arguments as plain structs, and the functions that run them. launch/cli.cpp
// fills the structs from the command line; launch/command_*.cpp hold the functions. Each returns the exit code and
// throws Error (one line) on any failure; main prints it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/bpe_trainer.h"
#include "data/emoji.h"
#include "data/pack.h"
#include "data/synthetic.h"

namespace matvlm {

class Process;  // launch/runtime.h: MPI, logging and signals of this process; alive for the whole command

// matvlm distill CONFIG [--set a.b=c]... [--device D]
struct DistillArgs {
  std::string config;             // YAML file
  std::vector<std::string> sets;  // "a.b=c", applied in order; --device D arrives as the last one, "device=D"
};

// matvlm teach CONFIG [--set a.b=c]... [--device D]
struct TeachArgs {
  std::string config;
  std::vector<std::string> sets;
};

// matvlm resume RUN [--set a.b=c]... [--device D]
struct ResumeArgs {
  std::string run;  // directory of a distill or teach run
  std::vector<std::string> sets;
};

// matvlm check CONFIG [--set a.b=c]... [--device D] [--ranks N]
struct CheckArgs {
  std::string config;
  std::vector<std::string> sets;
  int64_t ranks = 1;  // the memory estimate is for one of this many ranks
};

// matvlm eval --model DIR --data PACK
struct EvalArgs {
  std::string model;    // exported folder, or a run (its best checkpoint)
  std::string teacher;  // exported folder to compare with; empty = no agreement is computed
  std::string data;     // pack
  int64_t samples = 0;  // 0 = all of the pack
  int64_t micro = 16;   // samples per forward
  int64_t max_new_tokens = 32;
  int64_t show = 0;         // answers to print
  bool perplexity = false;  // of the labels, in place of generated answers; text packs allow nothing else
  std::string json;         // file for the results; empty = none
  std::string device = "auto";
  std::string precision = "f32";
};

// matvlm generate --model DIR [--image F] --prompt T
struct GenerateArgs {
  std::string model;
  std::string image;  // empty = text only
  std::string prompt;
  std::string template_name = "auto";  // a template's name, a YAML file, `none` (the prompt is continued as it is);
                                       // auto: phi for a Phi, none for other language models
  int64_t max_new_tokens = 128;
  double temperature = 0.0;  // 0 = greedy
  int64_t seed = 0;          // of the sampling
  std::string device = "auto";
  std::string precision = "f32";
};

// matvlm export RUN --out DIR [--format F] [--dtype D] [--max-shard-size N]
struct ExportArgs {
  std::string run;  // or a folder with a model
  std::string out;
  std::string checkpoint =
      "best";                     // best, latest, start, or an update's number; best is latest where none was evaluated
  std::string format = "matvlm";  // or hf-teacher
  std::string dtype = "auto";     // of the written weights: f32, bf16, f16; auto: f32, of a teacher as it has them
  std::string max_shard_size;     // of a file of weights, e.g. 5GB; empty = one file
};

// matvlm init --random CONFIG --out DIR [--seed N] [--dtype D] [--max-shard-size N]
struct InitArgs {
  std::string random;  // config.json, a folder with one, or the YAML of a run, whose teacher is meant
  std::string out;
  int64_t seed = 0;
  std::string dtype = "bf16";  // f32, bf16, f16
  std::string max_shard_size;  // as of ExportArgs
};

// matvlm bench step --config CONFIG [--shapes BxL[:RECOMPUTE]...] [--updates N] [--json FILE]
struct BenchStepArgs {
  std::string config;
  std::vector<std::string> sets;
  std::vector<std::string> shapes = {"4x1024"};
  int64_t updates = 9;     // timed ones of each shape
  bool text_only = false;  // no vision tower, so that rows of every length are of one kind
  std::string json;        // file for the results; empty = none
};

// matvlm data tokenizer --data JSON... | --text FILE... --out FILE
struct DataTokenizerArgs {
  std::vector<std::string> data;  // LLaVA JSON files whose conversations are learnt from
  std::vector<std::string> text;  // plain texts, as of DataPackArgs
  std::string template_name = "phi";
  std::string out;  // tokenizer.json
  BpeTrainerOptions options;
};

// matvlm data pack --data JSON [--images DIR] | --text FILE... --tokenizer FILE --out FILE
struct DataPackArgs {
  PackOptions options;
  std::vector<std::string> text;  // text and .jsonl files in place of options.json_path
  std::string end_token;          // of texts; empty: by the tokenizer
  std::string tokenizer;          // tokenizer.json
};

// matvlm inspect FILE [--stats] [--compare OTHER]
struct InspectArgs {
  std::string path;     // file of tensors, pack, checkpoint directory, run or folder with a model
  bool stats = false;   // reads every value: smallest, largest, mean, standard deviation, NaN count
  std::string compare;  // another file or folder of tensors; empty = none
};

// Training and evaluation, under MPI.
int run_distill(Process& process, const DistillArgs& args);
int run_teach(Process& process, const TeachArgs& args);
int run_resume(Process& process, const ResumeArgs& args);
int run_eval(Process& process, const EvalArgs& args);
int run_generate(Process& process, const GenerateArgs& args);
int run_export(Process& process, const ExportArgs& args);
int run_check(Process& process, const CheckArgs& args);
int run_bench_step(Process& process, const BenchStepArgs& args);

// Data and files, one process without MPI.
int run_data_emoji(const EmojiOptions& options);
int run_data_synthetic(const SyntheticOptions& options);
int run_data_tokenizer(const DataTokenizerArgs& args);
int run_data_pack(const DataPackArgs& args);
int run_inspect(const InspectArgs& args);
int run_init(const InitArgs& args);

}  // namespace matvlm
