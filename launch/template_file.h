// Conversation templates by name or from a user's YAML file.
#pragma once

#include <string>

#include "data/conversation.h"

namespace matvlm {

// A known template's name, or a file that ends in .yaml or .yml with the keys of ConversationTemplate. Error with file,
// line and key.
ConversationTemplate load_template(const std::string& name);

}  // namespace matvlm
