// What one library of this project takes from another.
#pragma once

#define KVISION_EXPORT __attribute__((visibility("default")))
