import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.common.errors.TopicExistsException;

/** Makes the topic of events and the compacted topic of balances: BROKERS PARTITIONS EVENTS BALANCES. */
public class Topics {
    public static void main(String[] arguments) throws Exception {
        int partitions = Integer.parseInt(arguments[1]);
        NewTopic events = new NewTopic(arguments[2], partitions, (short) -1);
        NewTopic balances = new NewTopic(arguments[3], partitions, (short) -1)
            .configs(Map.of("cleanup.policy", "compact"));
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", arguments[0]))) {
            for (NewTopic topic : List.of(events, balances)) {
                try {
                    admin.createTopics(List.of(topic)).all().get();
                    System.err.println("made " + topic.name() + " with " + partitions + " partitions");
                } catch (ExecutionException refused) {
                    if (!(refused.getCause() instanceof TopicExistsException)) {
                        throw refused;
                    }
                    System.err.println(topic.name() + " is there");
                }
            }
        }
    }
}
