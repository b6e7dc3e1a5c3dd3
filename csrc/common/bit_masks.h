// Masks that have a bit a pixel.
#pragma once

#include <cstdint>
#include <memory>

namespace kvision {

// Rows of whole words, the first pixel in the lowest bit. Bits behind the last pixel are 0. The
// rows of several images of one size lie one after the other.
class BitMasks {
 public:
  BitMasks(int64_t rows, int64_t width)
      : rows(rows),
        width(width),
        words((width + 63) / 64),
        // Of the last word, the bits that are pixels.
        last_word(~uint64_t{0} >> (words * 64 - width)),
        bits_(new uint64_t[rows * words]) {}

  uint64_t* operator[](int64_t row) const { return bits_.get() + row * words; }

  const int64_t rows, width, words;
  const uint64_t last_word;

 private:
  std::unique_ptr<uint64_t[]> bits_;
};

// Sets or clears the pixels [begin, end) of a row.
inline void PutBits(uint64_t* row, int64_t begin, int64_t end, bool set) {
  while (begin < end) {
    const int64_t word = begin / 64, stop = end < (word + 1) * 64 ? end : (word + 1) * 64;
    const uint64_t bits = ~uint64_t{0} >> (64 - (stop - begin)) << (begin % 64);
    row[word] = set ? row[word] | bits : row[word] & ~bits;
    begin = stop;
  }
}

// Calls visit(begin, end) for every run of set pixels of a row, from left to right.
template <typename Visit>
void ForEachRun(const uint64_t* row, int64_t width, Visit&& visit) {
  int64_t begin = -1;
  uint64_t before = 0;
  for (int64_t word = 0; word * 64 < width; ++word) {
    uint64_t edges = row[word] ^ (row[word] << 1 | before);
    before = row[word] >> 63;
    for (; edges != 0; edges &= edges - 1) {
      const int64_t x = word * 64 + __builtin_ctzll(edges);
      if (begin < 0) {
        begin = x;
      } else {
        visit(begin, x);
        begin = -1;
      }
    }
  }
  if (begin >= 0) visit(begin, width);
}

}  // namespace kvision
