// generate: one answer, written as it appears.
#include <iostream>
#include <optional>

#include "core/file.h"
#include "data/image.h"
#include "distill/generate.h"
#include "launch/commands.h"
#include "launch/model_folder.h"
#include "launch/runtime.h"
#include "launch/template_file.h"

namespace matvlm {

int run_generate(Process& process, const GenerateArgs& args) {
  const DType dtype = parse_precision(args.precision);
  Runtime runtime(process, parse_device(args.device), dtype);
  Context& ctx = runtime.ctx();
  const LoadedModel model = load_model(ctx, args.model, dtype);
  const Tokenizer tokenizer = load_tokenizer(model);
  std::string name = args.template_name;
  if (name == "auto") name = model.config.text.model_type == "phi" ? "phi" : "none";
  std::optional<ConversationTemplate> form;
  if (name != "none") form = load_template(name);

  TokenRows prompt;
  Tensor image_tokens;
  std::string question = form ? without_image_mark(args.prompt) : args.prompt;
  if (!args.image.empty()) {
    check(model.config.vision.has_value(), args.model, ": the model has no vision tower, --image cannot be used");
    check(form.has_value(), "--template: found none, expected a template with --image");
    question = with_image_mark(question);
    const ImagePreprocess how = preprocess_of(model.config);
    const std::string bytes = read_file(args.image);
    const auto* begin = reinterpret_cast<const uint8_t*>(bytes.data());
    std::vector<float> pixels(static_cast<size_t>(3 * how.size * how.size));
    preprocess_image(decode_image(std::span(begin, bytes.size()), args.image), how, pixels.data());
    image_tokens = encode_images(ctx, model.vlm, pixels, 1, dtype);
  }
  if (form) {
    prompt.ids = encode_prompt({{question, "", ""}}, *form, tokenizer);
  } else {
    prompt.ids = tokenizer.prefix_ids();
    const std::vector<int32_t> ids = tokenizer.encode(question);
    prompt.ids.insert(prompt.ids.end(), ids.begin(), ids.end());
    check(!prompt.ids.empty(), "--prompt: found an empty text, expected one to continue");
  }
  const int64_t positions =
      static_cast<int64_t>(prompt.ids.size()) + (args.image.empty() ? 0 : model.config.tokens_per_image() - 1);
  check(positions < model.config.text.max_positions, "--prompt: found ", positions,
        " positions with the template and the picture, expected fewer than the model's ",
        model.config.text.max_positions);
  prompt.cu = {0, static_cast<int64_t>(prompt.ids.size())};
  prompt.image_of_row = {args.image.empty() ? -1 : 0};

  GenerateOptions options;
  options.max_new_tokens = args.max_new_tokens;
  if (form) options.end_token = tokenizer.token_to_id(form->end_token).value_or(-1);
  options.other_end_tokens = model.config.text.end_tokens;
  options.temperature = args.temperature;
  options.seed = static_cast<uint64_t>(args.seed);
  StreamDecoder decoder(tokenizer, true);
  bool first = true;
  generate_tokens(ctx, model.vlm, prompt, image_tokens, dtype, options, [&](int64_t, int32_t token) {
    std::string text = decoder.add(token);
    // The space after `ASSISTANT:` belongs to the template.
    if (form && first && text.starts_with(form->answer_prefix)) text.erase(0, form->answer_prefix.size());
    first = first && text.empty();
    std::cout << text << std::flush;
  });
  std::cout << decoder.finish() << std::endl;
  return 0;
}

}  // namespace matvlm
