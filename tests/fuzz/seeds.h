// What the parts of make_fuzz_corpus share. Every seed is the same bytes in every run: nothing random, no present time.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace heddle::fuzz {

// The file `name` of a target's folder. A failure is printed and makes the program's exit status 1.
void Write(const std::string& target, const std::string& name, std::string_view bytes);
void Fail(const std::string& sentence);

// Little-endian.
std::string Number(uint64_t value, size_t bytes);
// `text` with the first `what` replaced; it must be there.
std::string Replace(std::string text, std::string_view what, std::string_view with);

void CertificateSeeds();    // seeds_certificates.cc
void DeviceSeeds();         // seeds_device.cc
void CoordinatorSeeds();    // seeds_coordinator.cc
void TokenizerSeeds();      // seeds_tokenizers.cc
void DataSeeds();           // seeds_data.cc
void EncodedUpdateSeeds();  // seeds_updates.cc
void LedgerSeeds();         // seeds_ledger.cc
void SplitSeeds();          // seeds_split.cc
void PartSeeds();           // seeds_parts.cc

}  // namespace heddle::fuzz
