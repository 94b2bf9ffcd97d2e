// The schema's history: migration i brings version i to i + 1. Never change one that was released; add another.
#pragma once

#include <span>
#include <string_view>

namespace heddle::coordinator {

struct Migration {
  std::string_view what;  // one line, kept in the schema_versions table
  const char* sql;        // statements, run in one transaction
};

std::span<const Migration> Migrations();

// "HEDL": marks the file as ours (PRAGMA application_id).
inline constexpr int kApplicationId = 0x4845444C;

}  // namespace heddle::coordinator
