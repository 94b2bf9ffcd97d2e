// The order in which a task sees the records of a file: for each epoch a permutation of its own, drawn from the seed.
//
// A permutation of n records is kept in no memory at all: a Feistel network over the smallest even number of bits that
// holds n (at least 6), whose round function is Philox, applied again while its result is not below n (cycle walking;
// Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). So any record of any epoch can be asked for, and
// the order depends on seed, epoch and n only. (Windows of a TextDataset keep the order of SampleOrder.) A value;
// thread-safe.
#pragma once

#include <cstdint>

namespace heddle::model {

class RecordOrder {
 public:
  // size from 1 to 2^62.
  RecordOrder(int64_t size, uint64_t seed);
  // The record that stands at `position` (0 to size - 1) of an epoch.
  int64_t At(uint64_t epoch, int64_t position) const;
  // The `index`-th record of all epochs, one behind the other.
  int64_t At(uint64_t index) const;
  int64_t size() const { return size_; }

 private:
  int64_t size_;
  uint64_t seed_;
  int half_bits_;
};

}  // namespace heddle::model
