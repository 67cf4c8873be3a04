// Packs LLaVA JSON and a picture folder into one HDF5 file (FORMAT.md): tokens and labels ready to train on, picture
// files as they are, and the texts that evaluation needs.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "data/conversation.h"
#include "data/hdf5_file.h"
#include "data/tokenizer.h"

namespace matvlm {

struct PackOptions {
  std::string json_path;
  std::string image_folder;  // empty: text-only samples, a picture is an error
  std::string output;
  std::string template_name = "phi";
  std::optional<ConversationTemplate> form;  // in place of template_name
  int64_t max_length = 1428;                 // of the ids, and of the row with the picture's tokens in it
  int64_t tokens_per_image = 729;            // what the model's vision tower gives
  bool skip_bad = false;                     // leave bad samples out and count them, instead of stopping at the first
  Hdf5Compression compression = Hdf5Compression::none;
  bool verify_images = true;     // decode each picture once, so that a broken one is found now
  int64_t part_samples = 20000;  // of the JSON between two points from which an ended packing goes on
};

struct PackReport {
  int64_t samples = 0;
  int64_t text_only = 0;
  int64_t images = 0;  // different picture files
  int64_t image_bytes = 0;
  int64_t tokens = 0;
  int64_t counted_labels = 0;              // that survive the cuts
  int64_t cut_samples = 0;                 // longer than max_length before or after the splice
  std::map<std::string, int64_t> skipped;  // reason -> samples
  std::vector<std::string> messages;       // of the first skipped samples, one line each
  int64_t resumed_samples = 0;             // of the JSON, packed by an earlier call that was ended
};

struct PackProgress {
  int64_t samples = 0;  // of the JSON so far
  int64_t bytes = 0;    // of the JSON so far, of `total_bytes`; while parts are joined, of their files
  int64_t total_bytes = 0;
  std::string phase = "packing";  // or "joining parts"
};
using PackProgressFunction = std::function<void(const PackProgress&)>;

// Two faults never stop the packing, they are counted: "pieces do not add up" (see EncodedConversation::consistent) and
// "no answer left" (the cuts leave no label that counts). Others are Errors unless skip_bad. Error when no sample is
// left. The output appears complete or not at all; an older file there is replaced. Every sample left out is a line of
// OUTPUT.skipped.jsonl: index, id, reason, message.
// Memory: that of the largest sample and some 100 bytes for each different picture. What is packed is kept in the
// folder OUTPUT.parts while it grows: a call with the same options and an unchanged JSON goes on from there after the
// program was ended, however, and gives the same file; parts of anything else are removed.
PackReport pack_dataset(const PackOptions& options, const Tokenizer& tokenizer,
                        const PackProgressFunction& progress = {});

}  // namespace matvlm
