// Subcommands and their options over CLI11.
#include "launch/cli.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <memory>

#include "core/error.h"
#include "launch/commands.h"
#include "launch/config.h"
#include "launch/version.h"

namespace matvlm {
namespace {

constexpr const char* kDescription =
    "matvlm turns attention layers of a vision-language model into Mamba-2 mixers and distils the model into itself.\n"
    "\n"
    "Training runs under MPI, one rank a GPU or a few cores: mpirun -n 4 matvlm distill configs/demo.yaml\n"
    "Every key of a config is explained in configs/reference.yaml.";

// Validators with messages as all of the program's: what was found, what was expected.
CLI::Validator at_least(double min) {
  return {[min](const std::string& text) {
            double value = 0;
            const bool ok = CLI::detail::lexical_cast(text, value) && value >= min;
            return ok ? std::string() : cat("found '", text, "', expected a number of at least ", min);
          },
          ""};
}

CLI::Validator one_of(const std::vector<std::string>& names) {
  return {[names](const std::string& text) {
            if (std::find(names.begin(), names.end(), text) != names.end()) return std::string();
            std::string list;
            for (size_t i = 0; i < names.size(); ++i) {
              list += (i == 0 ? "" : i + 1 == names.size() ? " or " : ", ") + names[i];
            }
            return cat("found '", text, "', expected ", list);
          },
          ""};
}

// Options that several subcommands share.
void add_sets(CLI::App& app, std::vector<std::string>& sets) {
  app.add_option("--set", sets, "override a key of the config, e.g. --set optimizer.lr=1e-4; may be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  app.add_option_function<std::string>(
         "--device", [&sets](const std::string& device) { sets.push_back("device=" + device); },
         "auto, cpu or cuda; short for --set device=...")
      ->type_name("DEVICE");
}

void add_device_and_precision(CLI::App& app, std::string& device, std::string& precision) {
  app.add_option("--device", device, "where to compute")->check(one_of({"auto", "cpu", "cuda"}))->capture_default_str();
  app.add_option("--precision", precision, "of compute")->check(one_of({"f32", "bf16"}))->capture_default_str();
}

class Parser {
 public:
  Parser() : app_(kDescription, "matvlm") {
    app_.set_version_flag("--version", std::string("matvlm ") + kVersion);
    app_.set_help_flag("-h,--help", "this text");
    app_.failure_message([](const CLI::App*, const CLI::Error& error) {
      return std::string("matvlm: ") + error.what() + " (see matvlm --help)\n";
    });
    add_training();
    add_models();
    add_data();
    add_inspect();
    add_bench();
  }

  CommandLine parse(int argc, char** argv) {
    try {
      app_.parse(argc, argv);  // an unknown subcommand is reported by name here
      if (app_.get_subcommands().empty()) throw CLI::RequiredError("a subcommand");
      for (const CLI::App* parent : {data_, bench_}) {
        if (*parent && parent->get_subcommands().empty()) {
          throw CLI::RequiredError("a subcommand of " + parent->get_name());
        }
      }
    } catch (const CLI::ParseError& error) {
      const bool asked = error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success);  // --help, --version
      app_.exit(error, std::cout, std::cerr);
      result_ = {};
      result_.exit_code = asked ? kExitOk : kExitUsage;
    }
    return result_;
  }

 private:
  // A subcommand whose arguments live as long as the command that is returned.
  template <class Args>
  CLI::App& add(CLI::App& parent, const std::string& name, const std::string& text, std::shared_ptr<Args>& args,
                int (*run)(Process&, const Args&)) {
    args = std::make_shared<Args>();
    CLI::App* command = parent.add_subcommand(name, text);
    command->callback(
        [this, args, run] { result_.job = [args, run](Process& process) { return run(process, *args); }; });
    return *command;
  }
  template <class Args>
  CLI::App& add(CLI::App& parent, const std::string& name, const std::string& text, std::shared_ptr<Args>& args,
                int (*run)(const Args&)) {
    args = std::make_shared<Args>();
    CLI::App* command = parent.add_subcommand(name, text);
    command->callback([this, args, run] { result_.tool = [args, run] { return run(*args); }; });
    return *command;
  }

  void add_training() {
    std::shared_ptr<DistillArgs> distill;
    CLI::App& d = add(app_, "distill", "distil a teacher into a student with Mamba-2 layers", distill, run_distill);
    d.add_option("config", distill->config, "YAML file, e.g. configs/demo.yaml")->required()->type_name("CONFIG");
    add_sets(d, distill->sets);

    std::shared_ptr<TeachArgs> teach;
    CLI::App& t =
        add(app_, "teach", "train a small teacher from nothing, by next-token loss on the answers", teach, run_teach);
    t.add_option("config", teach->config, "YAML file with a `teach` section")->required()->type_name("CONFIG");
    add_sets(t, teach->sets);

    std::shared_ptr<ResumeArgs> resume;
    CLI::App& r = add(app_, "resume", "go on with a run from its newest valid checkpoint, on any number of ranks",
                      resume, run_resume);
    r.add_option("run", resume->run, "directory of the run")->required()->type_name("RUN");
    add_sets(r, resume->sets);

    std::shared_ptr<CheckArgs> check;
    CLI::App& c = add(app_, "check", "dry run: sizes, memory estimate and what would be trained", check, run_check);
    // Without --reference the config is required; the callback below says so.
    c.add_option("config", check->config, "YAML file")->type_name("CONFIG");
    add_sets(c, check->sets);
    c.add_option("--ranks", check->ranks, "ranks of the job that the estimate is for")
        ->check(at_least(1))
        ->capture_default_str();
    const auto reference = std::make_shared<bool>(false);
    c.add_flag("--reference", *reference, "print configs/reference.yaml: every key, its meaning and default");
    c.callback([this, check, reference] {
      if (*reference) {
        result_.tool = [] {
          std::cout << config_reference();
          return kExitOk;
        };
      } else if (check->config.empty()) {
        throw CLI::RequiredError("config");
      } else {
        result_.job = [check](Process& process) { return run_check(process, *check); };
      }
    });
  }

  void add_models() {
    std::shared_ptr<EvalArgs> eval;
    CLI::App& e =
        add(app_, "eval", "exact match on a pack's questions or perplexity, beside a teacher's", eval, run_eval);
    e.add_option("--model", eval->model, "exported folder, or a run (its best checkpoint)")->required();
    e.add_option("--data", eval->data, "pack")->required();
    e.add_option("--teacher", eval->teacher, "exported folder to compare answers with");
    e.add_option("--samples", eval->samples, "samples to evaluate; 0 = all")->check(at_least(0))->capture_default_str();
    e.add_option("--micro", eval->micro, "samples of one forward pass")->check(at_least(1))->capture_default_str();
    e.add_option("--max-new-tokens", eval->max_new_tokens, "longest answer")->check(at_least(1))->capture_default_str();
    e.add_option("--show", eval->show, "answers to print")->check(at_least(0))->capture_default_str();
    e.add_option("--json", eval->json, "file for the results");
    e.add_flag("--perplexity", eval->perplexity,
               "of the answers' tokens; packs of plain text have no questions and need no flag");
    add_device_and_precision(e, eval->device, eval->precision);

    std::shared_ptr<GenerateArgs> generate;
    CLI::App& g = add(app_, "generate", "answer a question, with or without a picture, or continue a text", generate,
                      run_generate);
    g.add_option("--model", generate->model, "exported folder, or a run (its best checkpoint)")->required();
    g.add_option("--image", generate->image,
                 "PNG, JPEG or WebP file; without it the question is about nothing but itself");
    g.add_option("--prompt", generate->prompt, "the question, or with template none the text to continue")->required();
    g.add_option("--template", generate->template_name,
                 "phi, llama, chatml, a YAML file, none, or auto: phi for a Phi, else none")
        ->capture_default_str();
    g.add_option("--max-new-tokens", generate->max_new_tokens, "longest answer")
        ->check(at_least(1))
        ->capture_default_str();
    g.add_option("--temperature", generate->temperature, "of sampling; 0 takes the likeliest token")
        ->check(at_least(0))
        ->capture_default_str();
    g.add_option("--seed", generate->seed, "of sampling")->check(at_least(0))->capture_default_str();
    add_device_and_precision(g, generate->device, generate->precision);

    std::shared_ptr<ExportArgs> out;
    CLI::App& x = add(app_, "export", "write a run's model as a Hugging Face style folder", out, run_export);
    x.add_option("run", out->run, "directory of the run, or a folder with a model")->required()->type_name("RUN");
    x.add_option("--out", out->out, "folder to write")->required();
    x.add_option("--checkpoint", out->checkpoint, "best, latest, start, or the number of an update")
        ->capture_default_str();
    x.add_option("--format", out->format,
                 "matvlm: the student as the published MaTVLM classes load it; hf-teacher: the frozen teacher back")
        ->check(one_of({"matvlm", "hf-teacher"}))
        ->capture_default_str();
    x.add_option("--dtype,--precision", out->dtype,
                 "of the weights: f32, bf16 or f16; auto is f32, and for hf-teacher what the teacher has")
        ->check(one_of({"auto", "f32", "bf16", "f16"}))
        ->capture_default_str();
    x.add_option("--max-shard-size", out->max_shard_size,
                 "of a file of weights, e.g. 5GB: several files with an index; without it one file");
  }

  void add_data() {
    data_ = app_.add_subcommand("data", "make and pack data sets: emoji, synthetic, tokenizer, pack");
    CLI::App& data = *data_;

    std::shared_ptr<EmojiOptions> emoji;
    CLI::App& e = add(data, "emoji", "pictures of an emoji font with questions, from distribution packages", emoji,
                      run_data_emoji);
    e.add_option("--out", emoji->out, "folder to make: images/, train.json, heldout.json")->required();
    e.add_option("--language", emoji->language, "of names and keywords, e.g. en or de")->capture_default_str();
    e.add_option("--image-size", emoji->image_size, "pixels of a side; 136 is the font's own")
        ->check(at_least(1))
        ->capture_default_str();
    e.add_option("--seed", emoji->seed, "of the choice of held-out combinations and questions")
        ->check(at_least(0))
        ->capture_default_str();
    e.add_option("--held-out-percent", emoji->held_out_percent, "of the combinations of emoji and skin tones")
        ->check(at_least(0))
        ->capture_default_str();
    e.add_option("--limit", emoji->limit, "only the first N emoji; 0 = all")->check(at_least(0))->capture_default_str();
    e.add_option("--font", emoji->font, "colour bitmap font (fonts-noto-color-emoji)")->capture_default_str();
    e.add_option("--emoji-test", emoji->emoji_test, "emoji-test.txt (unicode-data)")->capture_default_str();
    e.add_option("--cldr", emoji->cldr, "CLDR's common folder (unicode-cldr-core)")->capture_default_str();

    std::shared_ptr<SyntheticOptions> synthetic;
    CLI::App& s =
        add(data, "synthetic", "generated pictures with questions; needs no package", synthetic, run_data_synthetic);
    s.add_option("--out", synthetic->out, "folder to make: images/, train.json, heldout.json")->required();
    s.add_option("--samples", synthetic->samples, "in train.json; heldout.json gets a quarter of it")
        ->check(at_least(1))
        ->capture_default_str();
    s.add_option("--image-size", synthetic->image_size, "pixels of a side")->check(at_least(1))->capture_default_str();
    s.add_option("--seed", synthetic->seed, "of everything in it")->check(at_least(0))->capture_default_str();
    add_tokenizer(data);
    add_pack(data);
  }

  void add_tokenizer(CLI::App& data) {
    std::shared_ptr<DataTokenizerArgs> args;
    CLI::App& t =
        add(data, "tokenizer", "learn a byte-level BPE tokenizer from conversations", args, run_data_tokenizer);
    CLI::Option* json = t.add_option("--data", args->data, "LLaVA JSON files")->type_name("JSON ...");
    t.add_option("--text", args->text, "text files, and .jsonl files of {\"text\": ...}, in place of --data")
        ->type_name("FILE ...")
        ->excludes(json);
    t.add_option("--template", args->template_name, "of the conversations: phi, llama, chatml or a YAML file")
        ->capture_default_str();
    t.add_option("--out", args->out, "tokenizer.json to write")->required();
    t.add_option("--vocab", args->options.vocab_size, "entries, the 256 bytes and special tokens included")
        ->check(at_least(1))
        ->capture_default_str();
    t.add_option("--min-count", args->options.min_count, "pairs that are rarer are not merged")
        ->check(at_least(1))
        ->capture_default_str();
  }

  void add_pack(CLI::App& data) {
    std::shared_ptr<DataPackArgs> args;
    CLI::App& p = add(data, "pack", "pack conversations and pictures, or texts, into one HDF5 file (data/FORMAT.md)",
                      args, run_data_pack);
    PackOptions& options = args->options;
    CLI::Option* json = p.add_option("--data", options.json_path, "LLaVA JSON");
    p.add_option("--images", options.image_folder,
                 "folder that the JSON's image paths are relative to; without it samples must be text-only")
        ->needs(json);
    p.add_option("--text", args->text,
                 "text files, and .jsonl files of {\"text\": ...}, for rows of --max-length tokens")
        ->type_name("FILE ...")
        ->excludes(json);
    p.add_option("--end-token", args->end_token,
                 "that ends a text of --text; default: the first of <|endoftext|>, <|end_of_text|>, </s>");
    p.add_option("--tokenizer", args->tokenizer, "tokenizer.json of the model")->required();
    p.add_option("--out", options.output, "pack to write")->required();
    p.add_option("--template", options.template_name, "of the conversations: phi, llama, chatml or a YAML file")
        ->capture_default_str();
    p.add_option("--max-length", options.max_length,
                 "positions of a sample, the picture's included; longer ones are cut")
        ->check(at_least(1))
        ->capture_default_str();
    p.add_option("--tokens-per-image", options.tokens_per_image, "positions that the model's vision tower gives")
        ->check(at_least(0))
        ->capture_default_str();
    p.add_option_function<std::string>(
         "--compression", [&options](const std::string& name) { options.compression = parse_hdf5_compression(name); },
         "of the pack's arrays: none, or deflate (a quarter of the size for texts, pictures stay as they are)")
        ->check(one_of({"none", "deflate"}))
        ->default_str("none");
    p.add_flag("--skip-bad", options.skip_bad,
               "leave bad samples out and count them, instead of stopping at the first");
    p.add_flag("!--no-verify", options.verify_images, "do not decode each picture once to find broken ones");
  }

  void add_inspect() {
    std::shared_ptr<InspectArgs> args;
    CLI::App& i = add(app_, "inspect", "what is in a file of tensors, pack, checkpoint, run or folder with a model",
                      args, run_inspect);
    i.add_option("path", args->path, "file or folder")->required()->type_name("FILE");
    i.add_flag("--stats", args->stats, "read all values: smallest, largest, mean, standard deviation, NaN count");
    i.add_option("--compare", args->compare, "another file or folder of tensors; exit code 1 when they differ")
        ->type_name("OTHER");
  }

  void add_bench() {
    std::shared_ptr<InitArgs> init;
    CLI::App& i =
        add(app_, "init", "write a checkpoint of random weights, for trying out and measuring", init, run_init);
    i.add_option("--random", init->random,
                 "config.json of the model, a folder with one, or the YAML of a run, whose teacher is meant")
        ->required()
        ->type_name("CONFIG");
    i.add_option("--out", init->out, "folder to write")->required();
    i.add_option("--seed", init->seed, "of the weights")->check(at_least(0))->capture_default_str();
    i.add_option("--dtype", init->dtype, "of the weights")
        ->check(one_of({"f32", "bf16", "f16"}))
        ->capture_default_str();
    i.add_option("--max-shard-size", init->max_shard_size,
                 "of a file of weights, e.g. 5GB: several files with an index; without it one file");

    bench_ = app_.add_subcommand("bench", "measure: step");
    std::shared_ptr<BenchStepArgs> step;
    CLI::App& s = add(*bench_, "step",
                      "time, throughput and memory of an update, part by part, with random weights and rows; reads "
                      "nothing but the config and the teacher's config.json",
                      step, run_bench_step);
    s.add_option("--config", step->config, "YAML file, e.g. configs/bench-full.yaml")->required()->type_name("CONFIG");
    add_sets(s, step->sets);
    s.add_option("--shapes", step->shapes, "samples x positions of each rank, with a train.recompute if wanted")
        ->type_name("BxL[:RECOMPUTE] ...")
        ->capture_default_str();
    s.add_option("--updates", step->updates, "that are timed")->check(at_least(1))->capture_default_str();
    s.add_flag("--text-only", step->text_only, "no pictures and no vision tower");
    s.add_option("--json", step->json, "file for the results");
  }

  CLI::App app_;
  CLI::App* data_ = nullptr;
  CLI::App* bench_ = nullptr;
  CommandLine result_;
};

}  // namespace

CommandLine parse_command_line(int argc, char** argv) { return Parser().parse(argc, argv); }

}  // namespace matvlm
