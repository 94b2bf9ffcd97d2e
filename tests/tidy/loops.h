// for (x : f()->items) walks over what is gone: until C++23 only the last value of the range expression lives as long
// as the loop. Compilers say nothing, and a sanitizer only where the line runs.
#pragma once

#include <string>

#include "tests/tidy/source_rules.h"

namespace heddle::tidy {

// `text` with comments, and the contents of string and character literals, as spaces; as many characters and lines.
std::string WithoutTexts(const std::string& text);

// No range-based for loop whose range is reached through what a call gives: f()->x, f().value(), *f(), f()[0]. A member
// that stands last (f().x) keeps its owner alive. Calls known to give what lives elsewhere are let through.
Violations CheckLoops(const Tree& tree);

}  // namespace heddle::tidy
