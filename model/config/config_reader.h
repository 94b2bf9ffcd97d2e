// Typed values out of one JSON object of a configuration file, hostile until proven otherwise: the first mistake is
// kept, later reads go on harmlessly, and the caller looks at status() once at the end. Free of LibTorch.
//
// Life cycle: refers to the object it was made on, which must outlive it. Not thread-safe.
#pragma once

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "model/config/model_spec.h"

namespace heddle::model {

class ConfigReader {
 public:
  explicit ConfigReader(const boost::json::object& object) : object_(object) {}

  // A whole number in [low, high]; a list of equal numbers stands for one of them (the two sides of an image).
  void Int(std::string_view key, int64_t* target, int64_t low, int64_t high);
  void RequiredInt(std::string_view key, int64_t* target, int64_t low, int64_t high);
  // A token's id, -1 for none, or a list of them: the first, and what else is in the list.
  void TokenIds(std::string_view key, int64_t* first, std::vector<int64_t>* others = nullptr);
  // A finite number above 0.
  void Positive(std::string_view key, double* target);
  void Bool(std::string_view key, bool* target);
  void String(std::string_view key, std::string* target);
  // Strings in a list; what is no list of strings is a mistake.
  void Strings(std::string_view key, std::vector<std::string>* target);
  // The name of an activation function, as Hugging Face writes it. kUnimplemented for one that is not known.
  void ActivationName(std::string_view key, Activation* target);
  // For what would change the numbers and is not there: fails with kUnimplemented unless the key is absent or has this
  // value.
  void Only(std::string_view key, bool supported);
  void Only(std::string_view key, std::string_view supported);
  void Only(std::string_view key, const char* supported) { Only(key, std::string_view(supported)); }  // not a bool

  // An object inside, or null when there is none; what is no object is a mistake. Failures of a reader made on it are
  // passed on with Fail.
  const boost::json::object* Object(std::string_view key);
  // null counts as absent. In Hugging Face it is a value of its own where the default is another one: see IsNull.
  bool IsNull(std::string_view key) const;  // there, and null
  bool Has(std::string_view key) const { return Find(key) != nullptr; }
  const boost::json::value* Find(std::string_view key) const;

  void Fail(Status status);
  const Status& status() const { return status_; }

 private:
  void Wrong(std::string_view key, const boost::json::value& value, const std::string& must_be);

  const boost::json::object& object_;
  Status status_;
};

}  // namespace heddle::model
