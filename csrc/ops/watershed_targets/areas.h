// How many pixels each instance of an image has: a hash table, since ids are any numbers.
#pragma once

#include <cstdint>
#include <vector>

namespace kvision {

class Areas {
 public:
  void Add(int32_t id, int64_t pixels) {
    Entry* entry = Find(id);
    if (entry->id == 0) {
      if (2 * ++number_ > static_cast<int64_t>(entries_.size())) {
        Grow();
        entry = Find(id);
      }
      entry->id = id;
    }
    entry->pixels += pixels;
  }

  void Add(const Areas& other) {
    for (const Entry& entry : other.entries_) {
      if (entry.id != 0) Add(entry.id, entry.pixels);
    }
  }

  int64_t operator[](int32_t id) const { return const_cast<Areas*>(this)->Find(id)->pixels; }

 private:
  struct Entry {
    int32_t id = 0;  // 0 where there is none
    int64_t pixels = 0;
  };

  // That of the id, or the free one where it belongs.
  Entry* Find(int32_t id) {
    const size_t mask = entries_.size() - 1;
    size_t at = static_cast<uint64_t>(id) * 0x9e3779b97f4a7c15u >> 32 & mask;
    while (entries_[at].id != id && entries_[at].id != 0) at = (at + 1) & mask;
    return &entries_[at];
  }

  void Grow() {
    std::vector<Entry> entries(2 * entries_.size());
    entries_.swap(entries);
    for (const Entry& entry : entries) {
      if (entry.id != 0) *Find(entry.id) = entry;
    }
  }

  std::vector<Entry> entries_ = std::vector<Entry>(64);
  int64_t number_ = 0;
};

}  // namespace kvision
