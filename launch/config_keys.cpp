// The keys of a run's config, each declared once.
#include "launch/config_keys.h"

#include <type_traits>
#include <utility>

#include "launch/config_codec.h"

namespace matvlm {
namespace {

class KeyTable {
 public:
  // `member` maps a RunConfig (const or not) to the bound member.
  template <class Member>
  KeyTable& key(const std::string& path, Member member, Range range, const std::string& doc) {
    using Value = std::remove_cvref_t<decltype(member(std::declval<RunConfig&>()))>;
    return custom<Value>(
        path, range, doc, [member](const RunConfig& config) { return member(config); },
        [member](RunConfig& config, Value value) { member(config) = std::move(value); });
  }
  template <class Member>
  KeyTable& key(const std::string& path, Member member, const std::string& doc) {
    return key(path, member, Range{}, doc);
  }
  // For values that are not one member of RunConfig.
  template <class Value, class Get, class Set>
  KeyTable& custom(const std::string& path, Range range, const std::string& doc, Get get, Set set) {
    ConfigKey entry;
    entry.path = path;
    entry.doc = doc;
    entry.expected = expected_text(Value{}, range);
    entry.in_distill = distill_;
    entry.in_teach = teach_;
    entry.read = [range, set](const YamlNode& node, RunConfig& config) {
      Value value{};
      if (!read_value(node, range, value)) return false;
      set(config, std::move(value));
      return true;
    };
    entry.write = [get](const RunConfig& config) { return write_value(get(config)); };
    keys_.push_back(std::move(entry));
    return *this;
  }

  // Of the key declared last.
  KeyTable& required(const std::string& example) {
    keys_.back().required = true;
    keys_.back().example = example;
    return *this;
  }
  KeyTable& resume_may_change() {
    keys_.back().resume_may_change = true;
    return *this;
  }
  // Of the keys declared from here on.
  void kinds(bool distill, bool teach) {
    distill_ = distill;
    teach_ = teach;
  }
  std::vector<ConfigKey> take() { return std::move(keys_); }

 private:
  std::vector<ConfigKey> keys_;
  bool distill_ = true;
  bool teach_ = true;
};

// The member at `path` of a RunConfig of any constness.
#define MEMBER(path) \
  [](auto& config) -> auto& { return config.path; }

void declare_run(KeyTable& t) {
  t.key("run.dir", MEMBER(run.dir), "directory of the run: checkpoints, metrics.jsonl, config.yaml, log")
      .required("runs/demo")
      .resume_may_change();
  t.key("run.name", MEMBER(run.name), "a name for people; not used otherwise").resume_may_change();
  t.key("run.memory_limit", MEMBER(run.memory_limit),
        "of the device's memory for a rank, beyond which the run ends with a line that says what would fit; 0 = none")
      .resume_may_change();
  t.key("run.seed", MEMBER(run.seed), at_least(0), "seed of start values and of the order of samples");
  t.key("device", MEMBER(device), "where to compute; auto takes CUDA when the build and the machine have it")
      .resume_may_change();
  t.key("precision", MEMBER(precision), "of compute; trained weights, moments and losses are float32 in both");
  t.kinds(true, false);
  t.key("precision.frozen", MEMBER(frozen_precision),
        "of the frozen matrices in the blocks of vision tower and language model, a key with a dot beside "
        "`precision`: as it says (compute), or 8-bit floats (fp8: e4m3, a scale for each row of a matrix, its inputs "
        "and its gradients), about half the time of their products; needs a GPU of compute capability 8.9 or the CPU");
  t.kinds(true, true);
  t.key("attention.backend", MEMBER(attention.backend),
        "kernels of attention in training and evaluation: our own, or cuDNN's (a GPU, bf16 and head widths that are "
        "multiples of 8; deterministic, with B*H*L*L elements of scratch in backward)")
      .resume_may_change();
}

void declare_student(KeyTable& t) {
  t.key("teacher.path", MEMBER(teacher.path),
        "exported or Hugging Face folder of the teacher in any layout, or a GGUF file; frozen")
      .required("cache/teacher");
  t.key("student.ssm_layers", MEMBER(student.ssm_layers), at_least(0),
        "layers whose attention becomes a Mamba-2 mixer, counted from 0");
  t.key("student.ssm_fraction", MEMBER(student.ssm_fraction), between(0, 0.5),
        "in place of ssm_layers: 0.125, 0.25 or 0.5 of the layers, spread as in the published runs; 0 = not used");
  t.key("student.is_bias", MEMBER(student.is_bias), "whether in_proj and out_proj of the mixers have biases");
  t.key("student.init", MEMBER(student.init), "start of the mixers: from the attention they replace, or random");
  t.key(
      "student.init_from", MEMBER(student.init_from),
      "exported or published student of the same Mamba layers whose weights are the start in place of `init`; empty = "
      "none");
  t.key("student.previous", MEMBER(student.previous),
        "exported student with fewer Mamba layers, which are taken over (progressive replacement); empty = none");
  t.key("student.tune_connector", MEMBER(student.tune_connector), "train a copy of the connector as well");
  t.key("student.trainable", MEMBER(student.trainable),
        "patterns of further tensors to train, * matches anything, e.g. language_model.lm_head.*");
  t.key("student.conv_width", MEMBER(student.conv_width), between(1, 16),
        "taps of the mixers' causal convolution, in positions");
}

void declare_loss(KeyTable& t) {
  t.key("loss.logit", MEMBER(loss.logit), "loss between the logits of teacher and student");
  t.key("loss.layer", MEMBER(loss.layer), "loss between mixer and attention outputs on the teacher's layer inputs");
  t.key("loss.logit_weight", MEMBER(loss.logit_weight), at_least(0), "factor of the logit loss in the total");
  t.key("loss.layer_weight", MEMBER(loss.layer_weight), at_least(0), "factor of the layer loss in the total");
  t.key("loss.ce_weight", MEMBER(loss.ce_weight), at_least(0), "factor of the next-token loss on the answers");
  t.key("loss.temperature", MEMBER(loss.temperature), above(0), "divides both logits in the logit loss");
  t.key("loss.reduction", MEMBER(loss.reduction),
        "published: sums over a sample's positions, mean over samples; per_token: mean over positions");
  t.key("loss.positions", MEMBER(loss.positions), "positions that logit and layer losses count");
  t.key("loss.layer_at", MEMBER(loss.layer_at),
        "sequential blocks: compare before the MLP (mixer) or after (block); the last layer, when it is a Mamba-2 one, "
        "is always compared behind the final norm");
}

void declare_optimizer(KeyTable& t) {
  t.key("optimizer.lr", MEMBER(optimizer.lr), above(0), "peak learning rate of AdamW");
  t.custom<std::array<double, 2>>(
      "optimizer.betas", between(0, 0.999999), "decay of the first and second moment",
      [](const RunConfig& c) {
        return std::array<double, 2>{c.optimizer.beta1, c.optimizer.beta2};
      },
      [](RunConfig& c, const std::array<double, 2>& betas) {
        c.optimizer.beta1 = betas[0];
        c.optimizer.beta2 = betas[1];
      });
  t.key("optimizer.eps", MEMBER(optimizer.eps), above(0), "added to the root of the second moment");
  t.key("optimizer.weight_decay", MEMBER(optimizer.weight_decay), at_least(0),
        "decoupled decay of tensors that are not 1-d and no bias");
  t.key("optimizer.clip", MEMBER(optimizer.clip), at_least(0), "largest global gradient norm; 0 = not clipped");
  t.key("optimizer.offload", MEMBER(optimizer.offload),
        "optimizer state in the CPU's memory, read and written by the GPU over its bus: the same bits, less of its "
        "memory, "
        "a slower update")
      .resume_may_change();
  t.key("schedule.kind", MEMBER(schedule.kind),
        "wsd: warm-up, stable, decay by half a cosine; cosine: warm-up, then half a cosine to the end");
  t.key("schedule.warmup", MEMBER(schedule.warmup), at_least(0), "linear from 0, in samples").resume_may_change();
  t.key("schedule.decay", MEMBER(schedule.decay), at_least(0), "wsd: length of the decay at the end, in samples")
      .resume_may_change();
  t.key("schedule.total", MEMBER(schedule.total), at_least(1), "length of the run, in samples")
      .required("665600")
      .resume_may_change();
  t.key("schedule.min_factor", MEMBER(schedule.min_factor), between(0, 1), "of the peak, at the end");
}

void declare_data(KeyTable& t) {
  t.key("data.train", MEMBER(data.train),
        "pack to learn from (matvlm data pack), or several as one data set; * ? [] in a name match files")
      .required("cache/demo/train.h5");
  t.key("data.heldout", MEMBER(data.heldout), "pack or packs to evaluate on; empty = no evaluation");
  t.key("data.max_length", MEMBER(data.max_length), at_least(2),
        "positions of a sample after the image is spliced in; longer ones are cut");
  t.key("data.image_aspect", MEMBER(data.image_aspect),
        "pictures that are not square: stretched to a square, or padded to one with the mean colour");
  t.key("data.prefetch", MEMBER(data.prefetch), at_least(1),
        "micro-batches made ahead of the computation, at least one for each thread")
      .resume_may_change();
  t.key("data.threads", MEMBER(data.threads), at_least(1), "threads of each rank that make them").resume_may_change();
  t.key("data.cache_mib", MEMBER(data.cache_mib), at_least(0),
        "MiB of preprocessed pictures that each rank keeps, so that a small data set is decoded once")
      .resume_may_change();
  t.key("batch.size", MEMBER(batch.size), at_least(1), "samples of an update, over all ranks and micro-batches");
  t.key("batch.micro", MEMBER(batch.micro), at_least(1), "samples of one forward pass of one rank").resume_may_change();
}

void declare_train(KeyTable& t) {
  t.key("train.recompute", MEMBER(train.recompute),
        "what backward computes again instead of keeping it: none, the inside of the MLPs, of the mixers, or of whole "
        "blocks; all but none also the convolution and the scan of every Mamba-2 mixer, which cost little; the results "
        "are the same bits, matvlm check says what each takes")
      .resume_may_change();
  t.key("train.recompute_every", MEMBER(train.recompute_every), at_least(1),
        "in which layers of the language model: every one, every second (0, 2, ...), every third")
      .resume_may_change();
  t.key("train.recompute_layers", MEMBER(train.recompute_layers),
        "in how many layers of the language model, spread evenly over its depth, in place of recompute_every; auto: in "
        "the fewest with which what matvlm check predicts to be taken from the device stays within run.memory_limit")
      .resume_may_change();
  t.key(
       "train.cuda_graph", MEMBER(train.cuda_graph),
       "record a step's work on the GPU when its shapes come the second time (lengths of all rows, pictures, labels "
       "counted) and launch it as a whole from then on: the same bits, less time between kernels and for the host; "
       "auto: on one rank with our own attention kernels, for steps small enough that launching them takes long (about "
       "10 TFLOP), given up with a line in the log where it fails; on: every step, ends the run where it fails")
      .resume_may_change();
  t.key("train.log_every", MEMBER(train.log_every), at_least(1), "updates between lines of the log and metrics.jsonl")
      .resume_may_change();
  t.key("train.eval_every", MEMBER(train.eval_every), at_least(0), "updates between evaluations; 0 = never")
      .resume_may_change();
  t.key("train.eval_samples", MEMBER(train.eval_samples), at_least(0),
        "held-out samples of an evaluation; 0 = all of them")
      .resume_may_change();
  t.key("train.checkpoint_every", MEMBER(train.checkpoint_every), at_least(1), "updates between checkpoints")
      .resume_may_change();
  t.key("train.keep", MEMBER(train.keep), at_least(1), "newest checkpoints that are kept, besides the best one")
      .resume_may_change();
  t.key("train.watchdog_seconds", MEMBER(train.watchdog_seconds), at_least(0),
        "seconds without progress after which the job is ended; 0 = never")
      .resume_may_change();
}

void declare_teach(KeyTable& t) {
  const Range size = at_least(1);
  t.key("teach.tokenizer", MEMBER(teach.tokenizer), "tokenizer.json; its size is the model's vocabulary")
      .required("cache/demo/tokenizer.json");
  t.key("teach.model.hidden", MEMBER(teach.model.hidden), size, "width of the language model (Phi)");
  t.key("teach.model.layers", MEMBER(teach.model.layers), size, "blocks of the language model");
  t.key("teach.model.heads", MEMBER(teach.model.heads), size, "query heads; divide `hidden`");
  t.key("teach.model.kv_heads", MEMBER(teach.model.kv_heads), size, "key and value heads; divide `heads`");
  t.key("teach.model.mlp", MEMBER(teach.model.mlp), size, "width of the MLP");
  t.key("teach.model.rotary_fraction", MEMBER(teach.model.rotary_fraction), between(0, 1),
        "of a head's dimensions that are rotated; rounded down it must be an even number");
  t.key("teach.model.vision.width", MEMBER(teach.model.vision.width), size, "width of the vision tower (SigLIP)");
  t.key("teach.model.vision.layers", MEMBER(teach.model.vision.layers), at_least(2),
        "blocks of the vision tower; the last one is not run");
  t.key("teach.model.vision.heads", MEMBER(teach.model.vision.heads), size, "attention heads; divide its width");
  t.key("teach.model.vision.mlp", MEMBER(teach.model.vision.mlp), size, "width of its MLP");
  t.key("teach.model.vision.image_size", MEMBER(teach.model.vision.image_size), size, "pixels of a side");
  t.key("teach.model.vision.patch", MEMBER(teach.model.vision.patch), size,
        "pixels of a patch's side; divide image_size");
}
#undef MEMBER

std::vector<ConfigKey> declare_keys() {
  KeyTable table;
  declare_run(table);
  table.kinds(true, false);
  declare_student(table);
  declare_loss(table);
  table.kinds(true, true);
  declare_optimizer(table);
  declare_data(table);
  declare_train(table);
  table.kinds(false, true);
  declare_teach(table);
  return table.take();
}

}  // namespace

const std::vector<ConfigKey>& config_keys() {
  static const std::vector<ConfigKey> keys = declare_keys();
  return keys;
}

}  // namespace matvlm
