/* The part of the gate that a trial passes every 0.1 to 0.3 ms, and the points that lead to it: `Passage` and
 * `Points`. `points.py` says what they do and has the same in Python; here it is 20 to 50 times faster
 * after the trial's own tensors have filled the caches.
 *
 * A page is shared memory that only its writer can truncate; who reads it here holds a buffer of its
 * mapping, so it cannot be unmapped meanwhile.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <linux/futex.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define STATE_MASK 3u
#define STATE_OPEN 1u
#define RUN 1u /* of the guard's, the owner's and the site's word */
#define SECOND_NS 1000000000LL

static int64_t clock_ns(clockid_t id)
{
    struct timespec at;
    clock_gettime(id, &at);
    return at.tv_sec * SECOND_NS + at.tv_nsec;
}

/* ---- ThreadLook ------------------------------------------------------------------------------ */

#define NAP_NS 60000
#define NUM_NAPS 20

typedef struct {
    PyObject_HEAD
    Py_buffer view;
    const volatile uint32_t *gate;
    int fd; /* of /proc/<pid>/task/<tid>/stat; -1: nobody */
} ThreadLook;

/* Returns whether the thread has a core or waits for one: its state, the third field, is R. */
static int could_run(const ThreadLook *self)
{
    char text[80];
    ssize_t length = self->fd < 0 ? -1 : pread(self->fd, text, sizeof text, 0);
    for (ssize_t i = length - 3; i >= 0; i--)
        if (text[i] == ')')
            return text[i + 2] == 'R';
    return 0;
}

static PyObject *look_call(PyObject *self, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    return PyBool_FromLong(could_run((ThreadLook *)self));
}

static PyObject *look_let_block(ThreadLook *self, PyObject *Py_UNUSED(ignored))
{
    const struct timespec nap = {0, NAP_NS};
    uint32_t seen = *self->gate;
    Py_BEGIN_ALLOW_THREADS
    for (int i = 0; i < NUM_NAPS && *self->gate == seen && could_run(self); i++)
        clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, NULL);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *look_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"page", "gate_index", NULL};
    Py_ssize_t gate_index;
    PyObject *page;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O$n:ThreadLook", names, &page, &gate_index))
        return NULL;
    ThreadLook *self = (ThreadLook *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    if (PyObject_GetBuffer(page, &self->view, PyBUF_SIMPLE) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    if (gate_index < 0 || (gate_index + 1) * 4 > self->view.len) {
        Py_DECREF(self);
        PyErr_SetString(PyExc_IndexError, "gate_index lies outside of the page");
        return NULL;
    }
    self->gate = (const volatile uint32_t *)self->view.buf + gate_index;
    self->fd = -1;
    return (PyObject *)self;
}

static void look_dealloc(ThreadLook *self)
{
    PyBuffer_Release(&self->view);
    Py_TYPE(self)->tp_free(self);
}

static PyMethodDef look_methods[] = {
    {"let_block", (PyCFunction)look_let_block, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef look_members[] = {
    {"fd", T_INT, offsetof(ThreadLook, fd), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyTypeObject look_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "hydro_hpc.trial._points.ThreadLook",
    .tp_basicsize = sizeof(ThreadLook),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = look_new,
    .tp_dealloc = (destructor)look_dealloc,
    .tp_methods = look_methods,
    .tp_call = look_call,
    .tp_members = look_members,
};

/* ---- Passage --------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    Py_buffer stage_view, site_view;
    const volatile uint32_t *gate, *guard, *owner, *site;
    const volatile uint64_t *closed;
    PyObject *ask;   /* (need_ns): the slow way */
    PyObject *wants; /* () -> bool: the primary waits for the device */
    unsigned int word;
    long long first_sleep_ns, look_every_ns, looked_ns, deadline_ns, careful_ns, late_ns;
    long long ended_ns, ended_device_ns, closed_ns;
    char has_ended, was_closed, is_leaving;
} Passage;

static void note_end(Passage *self)
{
    self->was_closed = *self->gate != self->word;
    self->closed_ns = (long long)*self->closed;
    self->ended_ns = clock_ns(CLOCK_MONOTONIC);
    self->ended_device_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    self->has_ended = 1;
    self->deadline_ns = 0;
}

/* Sleeps while the gate word is `seen`, for this long at most. */
static void sleep_while(Passage *self, uint32_t seen, int64_t length_ns)
{
    struct timespec length = {length_ns / SECOND_NS, length_ns % SECOND_NS};
    Py_BEGIN_ALLOW_THREADS
    syscall(SYS_futex, self->gate, FUTEX_WAIT, seen, &length, NULL, 0);
    Py_END_ALLOW_THREADS
}

/* Sleeps until the window's late start if it has one, and on if it has closed by then. Returns -1
 * with an exception if a signal's handler raised. */
static int sleep_outside(Passage *self, uint32_t seen, int64_t now_ns)
{
    int64_t length_ns = self->late_ns - now_ns;
    if (seen == self->word && length_ns < self->first_sleep_ns) {
        if (length_ns > 0)
            sleep_while(self, seen, length_ns);
        if (PyErr_CheckSignals() < 0)
            return -1;
        seen = *self->gate;
        if (self->is_leaving || (seen & STATE_MASK) == STATE_OPEN)
            return 0;
    }
    sleep_while(self, seen, self->first_sleep_ns);
    return 0;
}

static int is_permitted(const Passage *self)
{
    return *self->guard == RUN && *self->owner == RUN && *self->site == RUN;
}

/* Returns whether `need_ns` may begin at once; -1 with an exception if `wants` raised. */
static int may_pass(Passage *self, int64_t now_ns, int64_t need_ns)
{
    int64_t end_ns = now_ns + need_ns;
    if (*self->gate != self->word || end_ns > self->deadline_ns)
        return 0;
    if (!is_permitted(self))
        return 0;
    if (end_ns <= self->careful_ns && now_ns - self->looked_ns < self->look_every_ns)
        return 1;
    self->looked_ns = now_ns;
    if (Py_TYPE(self->wants) == &look_type)
        return !could_run((ThreadLook *)self->wants);
    PyObject *answer = PyObject_CallNoArgs(self->wants);
    if (answer == NULL)
        return -1;
    int wants = PyObject_IsTrue(answer);
    Py_DECREF(answer);
    return wants < 0 ? -1 : !wants;
}

static PyObject *pass(Passage *self, int64_t need_ns)
{
    int64_t now_ns = clock_ns(CLOCK_MONOTONIC);
    int passes = may_pass(self, now_ns, need_ns);
    if (passes < 0)
        return NULL;
    if (passes)
        Py_RETURN_NONE;
    uint32_t seen = *self->gate;
    int is_over = seen == self->word ? now_ns + need_ns > self->deadline_ns
                                     : (seen & STATE_MASK) != STATE_OPEN;
    if (self->deadline_ns != 0 && is_over) {
        note_end(self);
        if (PyErr_CheckSignals() < 0)
            return NULL;
        if (!self->is_leaving && sleep_outside(self, seen, now_ns) < 0)
            return NULL;
    }
    PyObject *need = PyLong_FromLongLong(need_ns);
    if (need == NULL)
        return NULL;
    PyObject *result = PyObject_CallOneArg(self->ask, need);
    Py_DECREF(need);
    return result;
}

static PyObject *passage_call(PyObject *self, PyObject *const *args, size_t flags, PyObject *names)
{
    if (PyVectorcall_NARGS(flags) != 1 || (names != NULL && PyTuple_GET_SIZE(names) != 0)) {
        PyErr_SetString(PyExc_TypeError, "a passage takes one argument, the need in nanoseconds");
        return NULL;
    }
    long long need_ns = PyLong_AsLongLong(args[0]);
    if (need_ns == -1 && PyErr_Occurred())
        return NULL;
    return pass((Passage *)self, need_ns);
}

static PyObject *passage_is_permitted(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(is_permitted((Passage *)self));
}

static PyObject *passage_note_end(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    note_end((Passage *)self);
    Py_RETURN_NONE;
}

/* Returns the address of a number of `size` bytes in a page, NULL with an exception if it is outside. */
static const volatile void *field(const Py_buffer *view, Py_ssize_t index, Py_ssize_t size)
{
    if (index < 0 || index >= view->len / size) {
        PyErr_SetString(PyExc_IndexError, "an index lies outside of the page");
        return NULL;
    }
    return (const char *)view->buf + index * size;
}

static PyObject *passage_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"stage",          "site",          "gate_index", "guard_index",
                            "owner_index",    "site_index",    "closed_index",
                            "first_sleep_ns", "look_every_ns", "ask",        "wants", NULL};
    Py_ssize_t gate, guard, owner, site, closed;
    long long first_sleep_ns, look_every_ns;
    PyObject *stage_page, *site_page, *ask, *wants;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO$nnnnnLLOO:Passage", names, &stage_page,
                                     &site_page, &gate, &guard, &owner, &site, &closed,
                                     &first_sleep_ns, &look_every_ns, &ask, &wants))
        return NULL;
    Passage *self = (Passage *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    if (PyObject_GetBuffer(stage_page, &self->stage_view, PyBUF_SIMPLE) < 0 ||
        PyObject_GetBuffer(site_page, &self->site_view, PyBUF_SIMPLE) < 0 ||
        (self->gate = field(&self->stage_view, gate, 4)) == NULL ||
        (self->guard = field(&self->stage_view, guard, 4)) == NULL ||
        (self->owner = field(&self->stage_view, owner, 4)) == NULL ||
        (self->site = field(&self->site_view, site, 4)) == NULL ||
        (self->closed = field(&self->stage_view, closed, 8)) == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    self->first_sleep_ns = first_sleep_ns;
    self->look_every_ns = look_every_ns;
    self->ask = Py_NewRef(ask);
    self->wants = Py_NewRef(wants);
    self->late_ns = INT64_MAX;
    self->vectorcall = passage_call;
    return (PyObject *)self;
}

static int passage_traverse(Passage *self, visitproc visit, void *arg)
{
    Py_VISIT(self->ask);
    Py_VISIT(self->wants);
    return 0;
}

static int passage_clear(Passage *self)
{
    Py_CLEAR(self->ask);
    Py_CLEAR(self->wants);
    return 0;
}

static void passage_dealloc(Passage *self)
{
    PyObject_GC_UnTrack(self);
    passage_clear(self);
    PyBuffer_Release(&self->stage_view);
    PyBuffer_Release(&self->site_view);
    Py_TYPE(self)->tp_free(self);
}

static PyMethodDef passage_methods[] = {
    {"is_permitted", passage_is_permitted, METH_NOARGS, NULL},
    {"note_end", passage_note_end, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef passage_members[] = {
    {"word", T_UINT, offsetof(Passage, word), 0, NULL},
    {"deadline_ns", T_LONGLONG, offsetof(Passage, deadline_ns), 0, NULL},
    {"careful_ns", T_LONGLONG, offsetof(Passage, careful_ns), 0, NULL},
    {"late_ns", T_LONGLONG, offsetof(Passage, late_ns), 0, NULL},
    {"is_leaving", T_BOOL, offsetof(Passage, is_leaving), 0, NULL},
    {"has_ended", T_BOOL, offsetof(Passage, has_ended), 0, NULL},
    {"ended_ns", T_LONGLONG, offsetof(Passage, ended_ns), READONLY, NULL},
    {"ended_device_ns", T_LONGLONG, offsetof(Passage, ended_device_ns), READONLY, NULL},
    {"was_closed", T_BOOL, offsetof(Passage, was_closed), READONLY, NULL},
    {"closed_ns", T_LONGLONG, offsetof(Passage, closed_ns), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyTypeObject passage_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "hydro_hpc.trial._points.Passage",
    .tp_basicsize = sizeof(Passage),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_new = passage_new,
    .tp_dealloc = (destructor)passage_dealloc,
    .tp_traverse = (traverseproc)passage_traverse,
    .tp_clear = (inquiry)passage_clear,
    .tp_vectorcall_offset = offsetof(Passage, vectorcall),
    .tp_call = PyVectorcall_Call,
    .tp_methods = passage_methods,
    .tp_members = passage_members,
};

/* ---- Points ---------------------------------------------------------------------------------- */

enum mode { SILENT, LEARNING, GROUPED };

typedef struct {
    PyObject_HEAD
    PyObject *admit; /* (need_ns); a Passage is called without its Python call */
    PyObject *learn; /* (key) */
    long long rest_ns;
    long long *needs_ns;
    Py_ssize_t num_needs, position;
    enum mode mode;
} Points;

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    Points *points;
    PyObject *key;
} Point;

static PyObject *admit(PyObject *target, long long need_ns)
{
    if (Py_TYPE(target) == &passage_type)
        return pass((Passage *)target, need_ns);
    PyObject *need = PyLong_FromLongLong(need_ns);
    if (need == NULL)
        return NULL;
    PyObject *result = PyObject_CallOneArg(target, need);
    Py_DECREF(need);
    return result;
}

static PyObject *go_through(Points *self, PyObject *key)
{
    if (self->mode == LEARNING)
        return PyObject_CallOneArg(self->learn, key);
    if (self->mode == SILENT)
        Py_RETURN_NONE;
    long long need_ns = self->rest_ns;
    if (self->position < self->num_needs)
        need_ns = self->needs_ns[self->position++];
    if (need_ns <= 0)
        Py_RETURN_NONE;
    return admit(self->admit, need_ns);
}

static PyObject *point_call(PyObject *self, PyObject *const *Py_UNUSED(args), size_t Py_UNUSED(flags),
                            PyObject *Py_UNUSED(names))
{
    return go_through(((Point *)self)->points, ((Point *)self)->key);
}

static int point_traverse(Point *self, visitproc visit, void *arg)
{
    Py_VISIT(self->points);
    Py_VISIT(self->key);
    return 0;
}

static int point_clear(Point *self)
{
    Py_CLEAR(self->points);
    Py_CLEAR(self->key);
    return 0;
}

static void point_dealloc(Point *self)
{
    PyObject_GC_UnTrack(self);
    point_clear(self);
    Py_TYPE(self)->tp_free(self);
}

/* A copy of a model that has it as a hook keeps it, as it would keep a function. */
static PyObject *point_copy(PyObject *self, PyObject *Py_UNUSED(memo))
{
    return Py_NewRef(self);
}

static PyMethodDef point_methods[] = {
    {"__deepcopy__", point_copy, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

/* Tells our hooks from a user's (hydro_hpc/fusion/hidden.py). */
static PyObject *point_is_pause(PyObject *Py_UNUSED(self), void *Py_UNUSED(closure))
{
    Py_RETURN_TRUE;
}

static PyGetSetDef point_facts[] = {
    {"is_pause_point", point_is_pause, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyTypeObject point_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "hydro_hpc.trial._points.Point",
    .tp_basicsize = sizeof(Point),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
                Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)point_dealloc,
    .tp_traverse = (traverseproc)point_traverse,
    .tp_clear = (inquiry)point_clear,
    .tp_vectorcall_offset = offsetof(Point, vectorcall),
    .tp_call = PyVectorcall_Call,
    .tp_methods = point_methods,
    .tp_getset = point_facts,
};

static PyObject *points_named(PyObject *self, PyObject *key)
{
    Point *point = (Point *)point_type.tp_alloc(&point_type, 0);
    if (point == NULL)
        return NULL;
    point->points = (Points *)Py_NewRef(self);
    point->key = Py_NewRef(key);
    point->vectorcall = point_call;
    return (PyObject *)point;
}

static PyObject *points_pass(PyObject *self, PyObject *key)
{
    return go_through((Points *)self, key);
}

static PyObject *points_group(Points *self, PyObject *needs)
{
    PyObject *sequence = PySequence_Fast(needs, "needs is no sequence");
    if (sequence == NULL)
        return NULL;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(sequence);
    long long *values = PyMem_New(long long, count ? count : 1);
    if (values == NULL) {
        Py_DECREF(sequence);
        return PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; i < count; i++)
        values[i] = PyLong_AsLongLong(PySequence_Fast_GET_ITEM(sequence, i));
    Py_DECREF(sequence);
    if (PyErr_Occurred()) {
        PyMem_Free(values);
        return NULL;
    }
    PyMem_Free(self->needs_ns);
    self->needs_ns = values;
    self->num_needs = count;
    Py_RETURN_NONE;
}

static PyObject *points_begin(Points *self, PyObject *Py_UNUSED(ignored))
{
    self->position = 0;
    self->mode = self->num_needs ? GROUPED : LEARNING;
    Py_RETURN_NONE;
}

static PyObject *points_end(Points *self, PyObject *Py_UNUSED(ignored))
{
    self->mode = SILENT;
    Py_RETURN_NONE;
}

static PyObject *points_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"admit", "learn", "rest_ns", NULL};
    PyObject *admit, *learn;
    long long rest_ns;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$OOL:Points", names, &admit, &learn, &rest_ns))
        return NULL;
    Points *self = (Points *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->admit = Py_NewRef(admit);
    self->learn = Py_NewRef(learn);
    self->rest_ns = rest_ns;
    self->mode = SILENT;
    return (PyObject *)self;
}

static int points_traverse(Points *self, visitproc visit, void *arg)
{
    Py_VISIT(self->admit);
    Py_VISIT(self->learn);
    return 0;
}

static int points_clear(Points *self)
{
    Py_CLEAR(self->admit);
    Py_CLEAR(self->learn);
    return 0;
}

static void points_dealloc(Points *self)
{
    PyObject_GC_UnTrack(self);
    points_clear(self);
    PyMem_Free(self->needs_ns);
    Py_TYPE(self)->tp_free(self);
}

static PyMethodDef points_methods[] = {
    {"named", points_named, METH_O, NULL},
    {"pass_", points_pass, METH_O, NULL},
    {"group", (PyCFunction)points_group, METH_O, NULL},
    {"begin", (PyCFunction)points_begin, METH_NOARGS, NULL},
    {"end", (PyCFunction)points_end, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject points_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "hydro_hpc.trial._points.Points",
    .tp_basicsize = sizeof(Points),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = points_new,
    .tp_dealloc = (destructor)points_dealloc,
    .tp_traverse = (traverseproc)points_traverse,
    .tp_clear = (inquiry)points_clear,
    .tp_methods = points_methods,
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "hydro_hpc.trial._points",
    .m_size = -1,
};

PyMODINIT_FUNC PyInit__points(void)
{
    PyObject *made = PyModule_Create(&module);
    if (made == NULL || PyModule_AddType(made, &look_type) < 0 ||
        PyModule_AddType(made, &passage_type) < 0 || PyType_Ready(&point_type) < 0 ||
        PyModule_AddType(made, &points_type) < 0) {
        Py_XDECREF(made);
        return NULL;
    }
    return made;
}
