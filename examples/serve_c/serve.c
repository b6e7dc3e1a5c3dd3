// clang-format off
/* Serve one image with a detector or an instance segmenter exported by kvision, without Python.
 *
 * Build, with the headers and libraries in TensorFlow's wheel:
 *
 *   TF=$(python -c 'import tensorflow as tf; print(tf.sysconfig.get_lib())')
 *   cc -std=c11 -O2 -isystem $TF/include serve.c -o serve $TF/libtensorflow_cc.so.2 $TF/libtensorflow_framework.so.2 -Wl,-rpath,$TF
 *
 * Use:
 *
 *   ./serve MODEL IMAGE [OP_LIBRARY]
 *
 *   MODEL       directory of the SavedModel
 *   IMAGE       a JPEG or PNG file
 *   OP_LIBRARY  kvision's _tf_ops.so, for a model exported with ops="native"
 *
 * Prints one detection a line, best first, separated by tabs:
 * label, class name, score, x1, y1, x2, y2 (pixels of the image).
 * Of a model that answers with instances it prints the label map, a grey image of 16 bits (PGM):
 * a pixel is the number of its instance, or 0. Comments in its head, one an instance, tell
 * number, label, class name, score.
 *
 * Exit code: 0 answered, even if nothing was found; 1 the model or the request failed;
 * 2 wrong usage; 3 the image cannot be read or is no whole JPEG or PNG.
 */
// clang-format on

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tensorflow/c/c_api.h>

enum { EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_IMAGE = 3 };

static _Noreturn void fail(int code, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("serve: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(code);
}

static void check(const TF_Status* status, const char* doing) {
  if (TF_GetCode(status) != TF_OK) fail(EXIT_FAILED, "%s: %s", doing, TF_Message(status));
}

/* --- The model's signatures ---
 * A SavedModel names the tensors behind a signature in its MetaGraphDef, a protocol buffer. To read
 * them takes little: a message is a run of fields, and every field wanted here is a string or a
 * message.
 */

typedef struct {
  const uint8_t* data;
  size_t size;
} Bytes;

static uint64_t read_varint(Bytes* bytes) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64 && bytes->size; shift += 7) {
    const uint8_t byte = *bytes->data++;
    --bytes->size;
    value |= (uint64_t)(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
  fail(EXIT_FAILED, "the SavedModel's meta graph is damaged");
}

static Bytes read_bytes(Bytes* bytes, uint64_t size) {
  if (size > bytes->size) fail(EXIT_FAILED, "the SavedModel's meta graph is damaged");
  const Bytes read = {bytes->data, (size_t)size};
  bytes->data += size;
  bytes->size -= size;
  return read;
}

/* Moves to the next string or message with this field number; 0 at the message's end. */
static int next_field(Bytes* message, uint64_t number, Bytes* value) {
  while (message->size) {
    const uint64_t tag = read_varint(message);
    Bytes field = {NULL, 0};
    switch (tag & 7) {
      case 0:
        read_varint(message);
        break;
      case 1:
        read_bytes(message, 8);
        break;
      case 2:
        field = read_bytes(message, read_varint(message));
        break;
      case 5:
        read_bytes(message, 4);
        break;
      default:
        fail(EXIT_FAILED, "the SavedModel's meta graph is damaged");
    }
    if (tag == (number << 3 | 2)) {
      *value = field;
      return 1;
    }
  }
  return 0;
}

/* The value under a key in a map field, whose entries hold the key in field 1, the value in 2. */
static int find_in_map(Bytes message, uint64_t number, const char* key, Bytes* value) {
  Bytes entry;
  while (next_field(&message, number, &entry)) {
    Bytes rest = entry, found;
    if (next_field(&rest, 1, &found) && found.size == strlen(key) &&
        !memcmp(found.data, key, found.size)) {
      rest = entry;
      return next_field(&rest, 2, value);
    }
  }
  return 0;
}

enum {
  META_GRAPH_SIGNATURES = 5,
  SIGNATURE_INPUTS = 1,
  SIGNATURE_OUTPUTS = 2,
  TENSOR_INFO_NAME = 1
};

/* Whether a signature has an input or output of this name. */
static int has_tensor(const TF_Buffer* meta_graph, const char* signature, uint64_t side,
                      const char* name) {
  const Bytes message = {meta_graph->data, meta_graph->length};
  Bytes definition, info;
  return find_in_map(message, META_GRAPH_SIGNATURES, signature, &definition) &&
         find_in_map(definition, side, name, &info);
}

/* The graph's tensor behind an input or output of a signature, by its documented name. */
static TF_Output find_tensor(TF_Graph* graph, const TF_Buffer* meta_graph, const char* signature,
                             uint64_t side, const char* name) {
  const Bytes message = {meta_graph->data, meta_graph->length};
  Bytes definition, info, tensor;
  if (!find_in_map(message, META_GRAPH_SIGNATURES, signature, &definition))
    fail(EXIT_FAILED, "the SavedModel has no signature `%s`", signature);
  if (!find_in_map(definition, side, name, &info) || !next_field(&info, TENSOR_INFO_NAME, &tensor))
    fail(EXIT_FAILED, "the signature `%s` has no tensor `%s`", signature, name);

  char operation[512]; /* "operation:index" */
  if (tensor.size >= sizeof operation)
    fail(EXIT_FAILED, "the tensor name of `%s` is too long", name);
  memcpy(operation, tensor.data, tensor.size);
  operation[tensor.size] = '\0';
  char* colon = strrchr(operation, ':');
  if (colon) *colon = '\0';
  const TF_Output output = {TF_GraphOperationByName(graph, operation), colon ? atoi(colon + 1) : 0};
  if (!output.oper) fail(EXIT_FAILED, "the graph has no operation `%s`", operation);
  return output;
}

/* --- Tensors --- */

static TF_Tensor* string_batch_of_one(const char* data, size_t size) {
  const int64_t shape[] = {1};
  TF_Tensor* tensor = TF_AllocateTensor(TF_STRING, shape, 1, sizeof(TF_TString));
  if (!tensor) fail(EXIT_FAILED, "out of memory");
  TF_TString* string = TF_TensorData(tensor);
  TF_StringInit(string);
  TF_StringCopy(string, data, size);
  return tensor;
}

/* Strings own memory outside their tensor. */
static void delete_strings(TF_Tensor* tensor) {
  TF_TString* strings = TF_TensorData(tensor);
  for (int64_t i = 0; i < TF_TensorElementCount(tensor); ++i) TF_StringDealloc(&strings[i]);
  TF_DeleteTensor(tensor);
}

static void expect(const TF_Tensor* tensor, const char* name, TF_DataType type, int64_t elements) {
  if (TF_TensorType(tensor) != type || TF_TensorElementCount(tensor) != elements)
    fail(EXIT_FAILED, "the output `%s` has not the documented type and shape", name);
}

static char* read_file(const char* path, size_t* size) {
  FILE* file = fopen(path, "rb");
  if (!file) fail(EXIT_IMAGE, "%s: %s", path, strerror(errno));
  size_t capacity = 1 << 16;
  char* data = NULL;
  *size = 0;
  do {
    capacity *= 2;
    data = realloc(data, capacity);
    if (!data) fail(EXIT_FAILED, "out of memory");
    *size += fread(data + *size, 1, capacity - *size, file);
  } while (*size == capacity);
  if (ferror(file)) fail(EXIT_IMAGE, "%s: %s", path, strerror(errno));
  fclose(file);
  return data;
}

/* --- The program --- */

typedef struct {
  TF_Session* session;
  TF_Graph* graph;
  const TF_Buffer* meta_graph;
  TF_Status* status;
} Model;

/* Fetches outputs of the signature `encoded`, and the class names after them. */
static void run(const Model* model, const char* image, size_t image_size, const char* const* names,
                int count, TF_Tensor** outputs) {
  const TF_Output input =
      find_tensor(model->graph, model->meta_graph, "encoded", SIGNATURE_INPUTS, "encoded_images");
  TF_Output fetches[8];
  for (int i = 0; i < count; ++i)
    fetches[i] =
        find_tensor(model->graph, model->meta_graph, "encoded", SIGNATURE_OUTPUTS, names[i]);
  fetches[count] =
      find_tensor(model->graph, model->meta_graph, "class_names", SIGNATURE_OUTPUTS, "class_names");
  TF_Tensor* request = string_batch_of_one(image, image_size);
  TF_SessionRun(model->session, NULL, &input, &request, 1, fetches, outputs, count + 1, NULL, 0,
                NULL, model->status);
  check(model->status, "running the signature `encoded`");
  expect(outputs[count], "class_names", TF_STRING, TF_TensorElementCount(outputs[count]));
  delete_strings(request);
}

/* Prints "label, class name, score", separated by tabs. */
static void print_class(int32_t label, float score, const TF_Tensor* class_names) {
  if (label < 0 || label >= TF_TensorElementCount(class_names))
    fail(EXIT_FAILED, "label %d has no class name", (int)label);
  const TF_TString* name = (const TF_TString*)TF_TensorData(class_names) + label;
  printf("%d\t%.*s\t%.9g", (int)label, (int)TF_StringGetSize(name), TF_StringGetDataPointer(name),
         score);
}

/* Prints detections; 0 if the image is damaged. */
static int print_detections(const Model* model, const char* image, size_t image_size) {
  enum { BOXES, SCORES, LABELS, NUM_DETECTIONS, CLASS_NAMES, NUM_OUTPUTS };
  static const char* const names[] = {"boxes", "scores", "labels", "num_detections"};
  TF_Tensor* outputs[NUM_OUTPUTS] = {NULL};
  run(model, image, image_size, names, CLASS_NAMES, outputs);

  expect(outputs[NUM_DETECTIONS], "num_detections", TF_INT32, 1);
  const int64_t capacity = TF_TensorElementCount(outputs[SCORES]);
  expect(outputs[BOXES], "boxes", TF_FLOAT, 4 * capacity);
  expect(outputs[SCORES], "scores", TF_FLOAT, capacity);
  expect(outputs[LABELS], "labels", TF_INT32, capacity);
  const int32_t count = *(const int32_t*)TF_TensorData(outputs[NUM_DETECTIONS]);
  if (count > capacity) fail(EXIT_FAILED, "`num_detections` is larger than the outputs");

  const float* boxes = TF_TensorData(outputs[BOXES]);
  const float* scores = TF_TensorData(outputs[SCORES]);
  const int32_t* labels = TF_TensorData(outputs[LABELS]);
  for (int32_t i = 0; i < count; ++i) {
    const float* box = boxes + 4 * i;
    print_class(labels[i], scores[i], outputs[CLASS_NAMES]);
    printf("\t%.9g\t%.9g\t%.9g\t%.9g\n", box[0], box[1], box[2], box[3]);
  }
  delete_strings(outputs[CLASS_NAMES]);
  for (int i = BOXES; i < CLASS_NAMES; ++i) TF_DeleteTensor(outputs[i]);
  return count >= 0;
}

/* Prints the label map of instances as a PGM image; 0 if the image is damaged. */
static int print_instances(const Model* model, const char* image, size_t image_size) {
  enum { IDS, SIZES, LABELS, SCORES, CLASS_NAMES, NUM_OUTPUTS };
  static const char* const names[] = {"instance_ids", "sizes", "labels", "scores"};
  TF_Tensor* outputs[NUM_OUTPUTS] = {NULL};
  run(model, image, image_size, names, CLASS_NAMES, outputs);

  expect(outputs[SIZES], "sizes", TF_INT32, 2);
  const int32_t* size = TF_TensorData(outputs[SIZES]);
  const int32_t height = size[0], width = size[1];
  if (height > 0) {
    const int64_t capacity = TF_TensorElementCount(outputs[SCORES]);
    expect(outputs[IDS], "instance_ids", TF_INT32, (int64_t)height * width);
    expect(outputs[LABELS], "labels", TF_INT32, capacity);
    expect(outputs[SCORES], "scores", TF_FLOAT, capacity);
    const int32_t* ids = TF_TensorData(outputs[IDS]);
    const int32_t* labels = TF_TensorData(outputs[LABELS]);
    const float* scores = TF_TensorData(outputs[SCORES]);
    printf("P5\n");
    for (int64_t i = 0; i < capacity; ++i) {
      if (labels[i] < 0) continue;
      printf("# %d\t", (int)i + 1);
      print_class(labels[i], scores[i], outputs[CLASS_NAMES]);
      putchar('\n');
    }
    printf("%d %d\n65535\n", (int)width, (int)height);
    for (int64_t i = 0; i < (int64_t)height * width; ++i) {
      if (ids[i] < 0 || ids[i] > 65535)
        fail(EXIT_FAILED, "a grey image has no value for instance %d", (int)ids[i]);
      putchar(ids[i] >> 8);
      putchar(ids[i] & 255);
    }
  }
  delete_strings(outputs[CLASS_NAMES]);
  for (int i = IDS; i < CLASS_NAMES; ++i) TF_DeleteTensor(outputs[i]);
  return height > 0;
}

int main(int argc, char** argv) {
  if (argc != 3 && argc != 4) {
    fputs("usage: serve MODEL IMAGE [OP_LIBRARY]\n", stderr);
    return EXIT_USAGE;
  }
  const char* path = argv[1];
  const char* image = argv[2];

  size_t image_size;
  char* image_data = read_file(image, &image_size);

  TF_Status* status = TF_NewStatus();
  TF_Library* library = NULL;
  if (argc == 4) {
    library = TF_LoadLibrary(argv[3], status);
    check(status, "loading the op library");
  }

  TF_SessionOptions* options = TF_NewSessionOptions();
  TF_Graph* graph = TF_NewGraph();
  TF_Buffer* meta_graph = TF_NewBuffer();
  const char* tags[] = {"serve"};
  TF_Session* session =
      TF_LoadSessionFromSavedModel(options, NULL, path, tags, 1, graph, meta_graph, status);
  if (strstr(TF_Message(status), "Kvision>"))
    fail(EXIT_FAILED, "%s holds native ops: give kvision's _tf_ops.so as the third argument", path);
  check(status, "loading the SavedModel");

  const Model model = {session, graph, meta_graph, status};
  const int has_ids = has_tensor(meta_graph, "encoded", SIGNATURE_OUTPUTS, "instance_ids");
  const int whole = (has_ids ? print_instances : print_detections)(&model, image_data, image_size);

  free(image_data);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteBuffer(meta_graph);
  TF_DeleteGraph(graph);
  TF_DeleteSessionOptions(options);
  if (library) TF_DeleteLibraryHandle(library);
  TF_DeleteStatus(status);
  if (!whole) fail(EXIT_IMAGE, "%s: not a whole JPEG or PNG image", image);
  return EXIT_SUCCESS;
}
